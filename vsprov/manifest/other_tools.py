"""Keys and values that people write from other tools, and what to write instead."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

_INTERFACES = "interfaces: [{name: eth0, network: NAME}]"
_PORTS = 'ports: ["8080:80"]'

# {key in lower case without _ - and dots: what to write}, where that starts with a key of the same map.
_KEYS: dict[str, tuple[str, ...]] = {
    "address": ("addresses: [10.20.0.11]",),
    "containerport": ("port: 80",),
    "dnssearch": ("dns: {search: [example.org]}", "search: [example.org]"),
    "domainname": ("dns: {search: [example.org]}", "domain: example.org"),
    "driver": ("type: bridge",),
    "enableipv6": ('subnets: [10.20.0.0/24, "fd20::/64"]',),
    "expose": (_PORTS,),
    "externalport": ("hostPort: 8080",),
    "from": ("peers: [10.0.0.0/8]",),
    "hostaddress": ("hostIP: 127.0.0.1",),
    "hwaddr": ('mac: "02:42:0a:14:00:0b"',),
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
    "macaddress": ('mac: "02:42:0a:14:00:0b"',),
    "masquerade": ("nat: true",),
    "nameserver": ("dns: {nameservers: [192.0.2.53]}", "nameservers: [192.0.2.53]"),
    "nameservers": ("dns: {nameservers: [192.0.2.53]}",),
    "network": (_INTERFACES,),
    "networkmode": (_INTERFACES,),
    "networks": (_INTERFACES,),
    "nic": (_INTERFACES,),
    "nics": (_INTERFACES,),
    "nictype": ("type: bridge",),
    "port": ("ports: [80]", _PORTS),
    "publish": (_PORTS,),
    "published": ("hostPort: 8080",),
    "publishport": (_PORTS,),
    "source": ("peers: [10.0.0.0/8]",),
    "subnet": ("subnets: [10.20.0.0/24]",),
    "target": ("port: 80",),
    "targetport": ("port: 80",),
    "to": ("peers: [10.0.0.0/8]",),
}


def key_hint(key: str, known: Container[str]) -> str:
    """What to write instead of a key of another tool, "" if that is unknown; `known` are the map's keys."""
    plain = key.lower().translate({ord(sign): None for sign in "_-. "})
    right = (text for text in _KEYS.get(plain, ()) if text.partition(":")[0] in known)
    return next((f"write {text}" for text in right), "")


def value_hint(key: str, value: Any) -> str:
    """What to write instead of a value of another tool, "" if that is unknown."""
    if key == "gateway" and isinstance(value, str) and any(sign in value for sign in ".:"):
        return "the first address of each subnet is the gateway; write gateway: true"
    if key == "type" and value == "none":
        return "a server without interfaces has loopback only"
    return ""
