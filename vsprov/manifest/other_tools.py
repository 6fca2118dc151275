"""Keys and values that people write from other tools, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

_INTERFACES = "interfaces: [{name: eth0, network: NAME}]"
_HOST = f"{_INTERFACES}, where NAME is a Network of type: host"
_NAMES = f"{_INTERFACES}; servers of a network know each other's names"
_PORTS = 'ports: ["8080:80"]'
_MOUNTS = "mounts: [{type: bind, source: /srv/data, target: /data}]"
_DOWNLOAD = "oci: {ref: docker.io/library/debian:12} for an image of a registry; download all else before"
_CAPABILITIES = "security: {capabilities: {add: [NET_RAW], drop: []}}"

_URL = (_DOWNLOAD, "ref: docker.io/library/debian:12", "mirror: http://deb.debian.org/debian")

# {key in lower case without _ - and dots: what to write}, where that starts with a key of the same map.
_KEYS: dict[str, tuple[str, ...]] = {
    "address": ("addresses: [10.20.0.11]",),
    "args": ("init: {command: [/bin/program, argument]}",),
    "capabilities": (_CAPABILITIES,),
    "capadd": (_CAPABILITIES,),
    "capdrop": (_CAPABILITIES,),
    "cidr": ("subnets: [10.20.0.0/24]", "peers: [10.0.0.0/8]"),
    "containerport": ("port: 80, and hostPort for the port of the host; only published ports are listed",),
    "dnsconfig": ("dns: {nameservers: [192.0.2.53], search: [example.org]}",),
    "dnsopt": ('dns: {options: ["ndots:2"]}',),
    "dnspolicy": ("dns: {nameservers: [192.0.2.53], search: [example.org]}",),
    "dnssearch": ("dns: {search: [example.org]}", "search: [example.org]"),
    "domainname": ("dns: {search: [example.org]}", "domain: example.org"),
    "dport": ('ports: ["80"]',),
    "driver": ("type: bridge",),
    "enableipv6": ('subnets: [10.20.0.0/24, "fd20::/64"]',),
    "entrypoint": ("init: {command: [/bin/program, argument]}",),
    "environment": ("init: {env: {NAME: value}}",),
    "expose": (f"{_PORTS} to publish a port; servers of a network reach all ports of each other",),
    "external": ("bridge: LINK to use a bridge of the host; a network of another manifest is not repeated",),
    "externallinks": (_NAMES,),
    "externalport": ("hostPort: 8080",),
    "from": ("peers: [10.0.0.0/8]",),
    "hostaddress": ("hostIP: 127.0.0.1",),
    "hostnetwork": (_HOST,),
    "hwaddr": ('mac: "02:42:0a:14:00:0b"',),
    "inbound": ("ingress: []",),
    "input": ("ingress: []",),
    "internal": ("nat: false",),
    "ip": ("addresses: [10.20.0.11]", "hostIP: 127.0.0.1", "peers: [10.20.0.11]"),
    "ipaddress": ("addresses: [10.20.0.11]", "hostIP: 127.0.0.1"),
    "ipam": ("subnets: [10.20.0.0/24]",),
    "iprange": ("subnets: [10.20.0.0/24]",),
    "ipv4": ("subnets: [10.20.0.0/24]", "addresses: [10.20.0.11]"),
    "ipv4address": ("addresses: [10.20.0.11]", "subnets: [10.20.0.0/24]"),
    "ipv4nat": ("nat: true",),
    "ipv6": ('subnets: [10.20.0.0/24, "fd20::/64"]', 'addresses: ["fd20::11"]'),
    "ipv6address": ('addresses: ["fd20::11"]', 'subnets: ["fd20::/64"]'),
    "limitsegress": ("resources: {network: {egress: 100Mbit}}",),
    "limitsingress": ("resources: {network: {ingress: 100Mbit}}",),
    "links": (_NAMES,),
    "macaddress": (
        'mac: "02:42:0a:14:00:0b"',
        'interfaces: [{name: eth0, network: NAME, mac: "02:42:0a:14:00:0b"}]',
    ),
    "masquerade": ("nat: true",),
    "nameserver": ("dns: {nameservers: [192.0.2.53]}", "nameservers: [192.0.2.53]"),
    "nameservers": ("dns: {nameservers: [192.0.2.53]}",),
    "network": (_INTERFACES,),
    "networkmode": (_INTERFACES,),
    "networks": (_INTERFACES,),
    "nic": (_INTERFACES,),
    "nics": (_INTERFACES,),
    "nictype": ("type: bridge",),
    "outbound": ("egress: []",),
    "output": ("egress: []",),
    "port": ("ports: [80]", _PORTS),
    "publish": (_PORTS,),
    "published": ("hostPort: 8080",),
    "publishport": (_PORTS,),
    "source": ("peers: [10.0.0.0/8]",),
    "subnet": ("subnets: [10.20.0.0/24]",),
    "target": ("port: 80",),
    "targetport": ("port: 80",),
    "tmpfs": ("mounts: [{type: tmpfs, target: /tmp, size: 64Mi}]",),
    "to": ("peers: [10.0.0.0/8]",),
    "uri": _URL,
    "url": _URL,
    "volumemounts": (_MOUNTS,),
    "volumes": (_MOUNTS,),
}

_ARCHIVE = "download the archive, and write path: base.tar.xz"

# {key as above: (a key of the same map, what to do instead)}
_ABSENT: dict[str, tuple[str, str]] = {
    "action": ("peers", "a rule allows what matches it; all else is refused"),
    "aliases": ("addresses", "the names of a server are its name and its hostname"),
    "attachable": ("subnets", "every server may use the network; remove the key"),
    "containername": ("image", "write metadata: {name: NAME}"),
    "default": ("ingress", "a direction with a list allows only what is in the list"),
    "dhcp": ("subnets", "vsprov assigns the addresses; remove the key"),
    "extrahosts": ("interfaces", "servers know the names of their networks; add others to their /etc/hosts"),
    "hostaliases": ("interfaces", "servers know the names of their networks; add others to their /etc/hosts"),
    "name": ("subnets", "write metadata: {name: NAME}"),
    "policy": ("peers", "a rule allows what matches it; all else is refused"),
    "uri": ("sha256", _ARCHIVE),
    "url": ("sha256", _ARCHIVE),
    "verdict": ("peers", "a rule allows what matches it; all else is refused"),
    "vlan": ("parent", "create the VLAN link on the host and write parent: LINK or bridge: LINK"),
}

# Keys of the source of an image that name files of the host.
_FILES = frozenset(("archive", "directory", "layout", "path", "source", "tar"))
_NOTHING = frozenset(("block", "closed", "deny", "drop", "no", "none", "reject"))
_NEITHER = frozenset(("no", "none", "off"))
_EVERYTHING = frozenset(("accept", "all", "allow", "any", "open", "yes", "*"))
_RULE = '{protocol: tcp, ports: ["80"]}'


def key_hint(key: str, value: Any, known: Container[str]) -> str:
    """What to write instead of a key of another tool, "" if that is unknown; `known` are the map's keys."""
    plain = key.lower().translate({ord(sign): None for sign in "_-. "})
    if plain == "networkmode" and value == "host":
        plain = "hostnetwork"
    if plain == "networkmode" and value == "none" and "interfaces" in known:
        return "a server without interfaces has loopback only"
    near, text = _ABSENT.get(plain, ("", ""))
    if near and near in known:
        return text
    right = (text for text in _KEYS.get(plain, ()) if text.partition(":")[0] in known)
    return next((f"write {text}" for text in right), "")


def value_hint(path: tuple[str | int, ...], value: Any) -> str:
    """What to write instead of a value of another tool, "" if that is unknown."""
    match path:
        case ("spec", "source", *_) if path[-1] in _FILES and _is_url(value):
            return f"write {_DOWNLOAD}"
        case (*_, "gateway") if isinstance(value, str) and any(sign in value for sign in ".:"):
            return "the first address of each subnet is the gateway; write gateway: true"
        case (*_, "type") if value == "none":
            return "a server without interfaces has loopback only"
        case (*_, "firewall" as key) | (*_, "firewall", "ingress" | "egress" as key):
            return _firewall_hint(key, value)
        case (*_, "firewall", "ingress" | "egress", int()) if not isinstance(value, dict):
            return f"write {_RULE}"
        case (*_, "dns") if isinstance(value, str | list):
            servers = [value] if isinstance(value, str) else value
            return f"write {{nameservers: [{', '.join(_plain(one, '192.0.2.53') for one in servers)}]}}"
        case (*_, "interfaces", int()) if isinstance(value, str):
            return f"write {{name: eth0, network: {_plain(value, 'NAME')}}}"
        case (*_, "interfaces") if isinstance(value, dict | str):
            return "write [{name: eth0, network: NAME}]"
    return ""


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value) is not None


def _plain(value: Any, example: str) -> str:
    """The value if it is a name or an address of IPv4, else an example."""
    return value if isinstance(value, str) and re.fullmatch(r"[a-z0-9.-]{1,63}", value) else example


def _firewall_hint(key: str, value: Any) -> str:
    """For what should be a map of two directions, or the list of rules of one of them."""
    if isinstance(value, dict) and key == "firewall":
        return ""
    word = str(value).lower() if isinstance(value, str | bool) else ""
    whole = key == "firewall"
    if whole and (word in _NEITHER or value is False):
        return "remove the key for no firewall, or write {ingress: []} to let nothing in"
    if word in _NOTHING or value is False:
        return f"write {'{ingress: []}' if whole else '[]'}, which allows nothing"
    if word in _EVERYTHING or value is True:
        return "remove the key: what is not set is not restricted"
    if value is None and not whole:
        return "write [] to allow nothing, or remove the key to allow everything"
    return f"write {f'{{ingress: [{_RULE}]}}' if whole else f'[{_RULE}]'}; an empty list allows nothing"
