"""Addresses, subnets, ports and names of network interfaces, and their canonical forms.

The canonical form is the one that the kernel and its tools print: IPv6 addresses are compressed (RFC 5952),
MAC addresses are in lower case. Each `parse_*` takes a YAML scalar and raises `UnitError` with a hint.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from vsprov.model.suggest import did_you_mean
from vsprov.model.values.patterns import HOSTNAME, NAME_PATTERN, Schema
from vsprov.model.values.units import UnitError, short

if TYPE_CHECKING:  # importing ipaddress takes 1 ms, which manifests without networks need not pay
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    Address = IPv4Address | IPv6Address
    Subnet = IPv4Network | IPv6Network
else:
    Address = Subnet = object

AUTO = "auto"
DEFAULT = "default"
PROTOCOLS = ("tcp", "udp")
LONGEST_NAME = 15  # bytes of the name of an interface; IFNAMSIZ of linux/if.h without the NUL
LONGEST_ALTNAME = 127  # bytes of an alternative name; ALTIFNAMSIZ without the NUL
LEAST_MTU = 68  # RFC 791; the kernel refuses less on an interface with IPv4
LEAST_MTU_V6 = 1280  # RFC 8200; the kernel removes IPv6 from an interface with less
MOST_MTU = 65535

_EXAMPLE = "write 10.20.0.11 or fd20::11"
# Why an address of these subnets cannot be that of an interface.
_SPECIAL = {
    "0.0.0.0/8": "does not identify a host",
    "::/128": "does not identify a host",
    "127.0.0.0/8": "is a loopback address",
    "::1/128": "is a loopback address",
    "169.254.0.0/16": "is link-local",
    "fe80::/10": "is link-local",
    "224.0.0.0/4": "is a multicast address",
    "ff00::/8": "is a multicast address",
    "255.255.255.255/32": "is the broadcast address",
    "::ffff:0:0/96": "is an IPv4 address in IPv6 notation",
}


@cache
def _special_subnets() -> tuple[tuple[Subnet, str], ...]:
    return tuple((subnet_of(subnet), why) for subnet, why in _SPECIAL.items())


@lru_cache(4096)
def address_of(text: str) -> Address:
    """The address in canonical text, with or without a prefix length."""
    from ipaddress import ip_address

    return ip_address(text.partition("/")[0])


@lru_cache(4096)
def subnet_of(text: str) -> Subnet:
    """The subnet in canonical text; for an address with a prefix length, the subnet that it is in."""
    from ipaddress import ip_network

    return ip_network(text, strict=False)


def special(address: Address) -> str:
    """Why the address cannot be that of an interface, or ""."""
    return next((why for subnet, why in _special_subnets() if address in subnet), "")


def _address(raw: Any) -> Address:
    """Any address but an IPv4 address in IPv6 notation."""
    from ipaddress import ip_address

    text = str(raw)
    if "%" in text:
        hint = "link-local addresses, which require a zone, are set by the kernel"
        raise UnitError(f"{short(raw, repr)} contains a zone", hint)
    try:
        found = ip_address(text)
    except ValueError:
        raise UnitError(f"{short(raw, repr)} is not an IP address", _address_hint(text)) from None
    if found.version == 6 and found.ipv4_mapped:
        raise UnitError(f"{short(raw)} is an IPv4 address in IPv6 notation", f"write {found.ipv4_mapped}")
    return found


def _address_hint(text: str) -> str:
    if "/" in text:
        return f"omit the prefix length: {text.partition('/')[0]}"
    if text.startswith("[") and text.endswith("]"):
        return f'omit the brackets: "{text[1:-1]}"'
    if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){3}", text, re.ASCII):
        plain = ".".join(str(int(number)) for number in text.split("."))
        return f"omit leading zeros: {plain}" if plain != text else _EXAMPLE
    return _EXAMPLE


def parse_address(raw: Any) -> str:
    """Any unicast address, also one of loopback."""
    found = _address(raw)
    why = special(found)
    if why and not found.is_loopback:
        raise UnitError(f"{short(raw)} {why}", _EXAMPLE)
    return str(found)


def parse_host_address(raw: Any) -> str:
    """An address of the host, or 0.0.0.0 or :: for all of a family."""
    found = _address(raw)
    if found.version == 6 and found.is_loopback:
        raise UnitError(f"{short(raw)}: the kernel does not forward from this address", "write 127.0.0.1")
    return str(found) if found.is_unspecified else parse_address(raw)


def parse_interface_address(raw: Any) -> str:
    """`auto`, an address, or one with its prefix length."""
    text = str(raw)
    if text == AUTO:
        return AUTO
    if text.lower() in (AUTO, "dhcp", "slaac"):
        raise UnitError(f"{short(raw, repr)} is not an IP address", "write auto")
    head, slash, prefix = text.partition("/")
    found = _address(head)
    if why := special(found):
        raise UnitError(f"{short(raw)} {why}", _EXAMPLE)
    return f"{found}/{_prefix(raw, prefix, found)}" if slash else str(found)


def _prefix(raw: Any, text: str, address: Address) -> int:
    """A prefix length."""
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or int(text) > address.max_prefixlen:
        hint = f"write {address}/{24 if address.version == 4 else 64}"
        message = f"{short(raw, repr)}: the prefix length is a number up to {address.max_prefixlen}"
        raise UnitError(message, hint)
    return int(text)


def _network(raw: Any) -> Subnet:
    """Any subnet, without host bits."""
    head, slash, prefix = str(raw).partition("/")
    if not slash:
        raise UnitError(f"{short(raw, repr)} is not a subnet", "write 10.20.0.0/24 or fd20::/64")
    address = _address(head)
    found = subnet_of(f"{address}/{_prefix(raw, prefix, address)}")
    if found.network_address != address:
        raise UnitError(f"{short(raw)} has host bits", f"write {found}")
    return found


def parse_subnet(raw: Any) -> str:
    """A subnet of unicast addresses."""
    found = _network(raw)
    for other, _ in _special_subnets():
        if found.version == other.version and found.overlaps(other):
            message = f"{short(raw)} overlaps {other}, which networks cannot use"
            raise UnitError(message, "write 10.20.0.0/24 or fd20::/64")
    return str(found)


def parse_destination(raw: Any) -> str:
    """`default` or a subnet."""
    if raw == DEFAULT:
        return DEFAULT
    text = str(raw)
    if "/" not in text:
        found = _address(raw)
        raise UnitError(f"{short(raw)} is not a subnet", f"write {found}/{found.max_prefixlen}")
    network = _network(raw)
    return str(network) if network.prefixlen else DEFAULT


def parse_peer(raw: Any) -> str:
    """An address, a subnet, or the name of a server or network."""
    text = str(raw)
    if "/" in text:
        return str(_network(raw))
    if ":" in text or re.fullmatch(r"[0-9.]*\.[0-9.]*", text, re.ASCII):
        return str(_address(raw))
    if not re.fullmatch(NAME_PATTERN[1:-1], text):
        message = f"{short(raw, repr)} is not an address, a subnet, or a name of a server or network"
        raise UnitError(message, "omit peers for everybody" if text in _EVERYBODY else "")
    return text


_EVERYBODY = ("", "*", "any", "all", "ANY", "ALL")


def is_name(peer: str) -> bool:
    """Whether a parsed peer is the name of a server or network."""
    return re.fullmatch(NAME_PATTERN[1:-1], peer) is not None


def parse_mac(raw: Any) -> str:
    """An Ethernet address in lower case."""
    text = str(raw).lower()
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text, re.ASCII):
        digits = re.sub(r"[-:.]", "", text)
        plain = re.fullmatch(r"[0-9a-f]{12}", digits, re.ASCII)
        pairs = ":".join(digits[i : i + 2] for i in range(0, 12, 2)) if plain else "02:42:0a:14:00:0b"
        raise UnitError(f"{short(raw, repr)} is not a MAC address", f'write "{pairs}"')
    first = int(text[:2], 16)
    if first & 1:
        hint = f'the lowest bit of the first byte must be 0: "{first & ~1 | 2:02x}{text[2:]}"'
        raise UnitError(f"{short(raw)} is a multicast address", hint)
    if text == "00:00:00:00:00:00":
        raise UnitError(f"{short(raw)} does not identify an interface", "omit mac")
    return text


def parse_interface_name(raw: Any) -> str:
    """A name that the kernel accepts for an interface or as its alternative name; dev_valid_name()."""
    text = str(raw)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text, re.ASCII):
        message = f"{short(raw, repr)} is not a valid name of an interface"
        raise UnitError(message, "write letters and digits, with . _ - in between, such as eth0")
    if len(text) > LONGEST_ALTNAME:
        raise UnitError(f"{short(raw)} has {len(text)} characters, at most {LONGEST_ALTNAME}")
    if text == "lo":
        raise UnitError("lo is the loopback interface, which every server has", "write eth0")
    if text in ("all", "default"):  # directories of /proc/sys/net/ipv4/conf
        raise UnitError(f"{text} is reserved by the kernel", "write eth0")
    return text


def parse_link(raw: Any) -> str:
    """The name of a link of the host, at most 15 bytes."""
    text = parse_interface_name(raw)
    if len(text) > LONGEST_NAME:
        message = f"{text} has {len(text)} characters, at most {LONGEST_NAME}"
        raise UnitError(message, "use the name that `ip link` shows, not an alternative name")
    return text


def parse_ports(raw: Any) -> str:
    """`8080` or `8000-8010`."""
    text = "" if isinstance(raw, bool) else short(raw) if isinstance(raw, int) else str(raw)
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", text, re.ASCII)
    if match is None:
        several = isinstance(raw, str) and "," in raw
        raise UnitError(
            f"{short(raw, repr)} is not a port or a range of ports",
            "write one entry for each" if several else 'write 8080 or "8000-8010"',
        )
    first, last = int(match[1]), int(match[2] or match[1])
    for port in (first, last):
        if not 1 <= port <= 65535:
            range_ = f"{short(raw)}: " if match[2] else ""
            raise UnitError(f"{range_}{short(port)} is not between 1 and 65535")
    if last < first:
        raise UnitError(f"{short(raw)} is not an ascending range", f'write "{last}-{first}"')
    return str(first) if first == last else f"{first}-{last}"


def port_range(text: str) -> tuple[int, int]:
    """(first, last) of what `parse_ports` returned."""
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def split_port(raw: str | int) -> dict[str, Any]:
    """The map of a port in the form [HOSTIP:]HOSTPORT[:PORT][/PROTOCOL]."""
    address, rest = _split_host(raw if isinstance(raw, str) else short(raw))
    ports, slash, protocol = rest.partition("/")
    host, colon, port = ports.partition(":")
    if not host and colon:
        raise UnitError(f"{short(raw, repr)} has no port of the host", f'write "8080:{port or 80}"')
    out: dict[str, Any] = {"hostPort": parse_ports(host)}
    if colon and not port:
        raise UnitError(f"{short(raw, repr)} has no port of the server", f'write "{host}:80" or "{host}"')
    if colon:
        out["port"] = parse_ports(port)
    if slash:
        out["protocol"] = _protocol(protocol)
    if address:
        out["hostIP"] = parse_host_address(address)
    return out


def _split_host(text: str) -> tuple[str, str]:
    """(address of the host or "", the rest) of a port in the short form."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise UnitError(f"{short(text, repr)} is not a port", 'write "[fd20::11]:8080:80"')
        return address, rest[1:]
    head, colon, rest = text.partition(":")
    if colon and re.search(r"[^0-9-]", head):
        if rest.count(":") > 1 or not re.fullmatch(r"[0-9.]+", head, re.ASCII):
            _refuse_host(text)
        return head, rest
    if text.count(":") > 1:
        _refuse_host(text)
    return "", text


def _refuse_host(text: str) -> None:
    """Raise the error for something before the port that is not an address."""
    match = re.fullmatch(r"([0-9A-Fa-f:]*::?[0-9A-Fa-f]*):([0-9-]+):([0-9-]+.*)", text, re.ASCII)
    if match:
        hint = f'IPv6 addresses are in brackets: "[{match[1]}]:{match[2]}:{match[3]}"'
    else:
        hint = "write [HOSTIP:]HOSTPORT[:PORT][/PROTOCOL], such as 127.0.0.1:8080:80/tcp"
    raise UnitError(f"{short(text, repr)} is not a port", hint)


def _protocol(text: str) -> str:
    if text not in PROTOCOLS:
        close = did_you_mean(text, PROTOCOLS)
        raise UnitError(f"{short(text, repr)} is not one of {', '.join(PROTOCOLS)}{close}")
    return text


def parse_domain(raw: Any) -> str:
    """A domain in lower case, without a dot at the end."""
    return str(raw).lower().removesuffix(".")


# -- schemas. Patterns are for editors; the parsers above have more specific errors.

_IP = "[0-9A-Fa-f:.]"
_PORT_PATTERN = "[0-9]{1,5}(-[0-9]{1,5})?"

ADDRESS: Final[Schema] = {
    "type": "string",
    "pattern": f"^{_IP}+$",
    "patternErrorMessage": f"is not an IP address; {_EXAMPLE}",
}
ADDRESSES: Final[Schema] = {
    "items": {
        "type": "string",
        "pattern": f"^(auto|{_IP}+(/[0-9]{{1,3}})?)$",
        "patternErrorMessage": "is not an IP address; write auto, 10.20.0.11/24 or fd20::11/64",
    },
    "maxItems": 64,
}
_SUBNET: Final[Schema] = {
    "type": "string",
    "pattern": f"^{_IP}+/[0-9]{{1,3}}$",
    "patternErrorMessage": "is not a subnet; write 10.20.0.0/24 or fd20::/64",
}
SUBNETS: Final[Schema] = {"items": _SUBNET, "maxItems": 16}
DESTINATION: Final[Schema] = {
    "type": "string",
    "pattern": f"^(default|{_IP}+/[0-9]{{1,3}})$",
    "patternErrorMessage": "is not a destination; write default or 10.30.0.0/16",
}
PEERS: Final[Schema] = {
    "items": {
        "type": "string",
        "pattern": rf"^({_IP}+(/[0-9]{{1,3}})?|{NAME_PATTERN[1:-1]})$",
        "patternErrorMessage": "is not an address, a subnet, or a name of a server or network",
    },
    "maxItems": 256,
}
PORT: Final[Schema] = {
    "type": ["integer", "string"],
    "minimum": 1,
    "maximum": 65535,
    "pattern": f"^{_PORT_PATTERN}$",
    "patternErrorMessage": 'is not a port or a range of ports; write 8080 or "8000-8010"',
}
PORTS: Final[Schema] = {"items": PORT, "maxItems": 256}
SHORT_PORT: Final[Schema] = {
    "type": ["object", "string", "integer"],
    "minimum": 1,
    "maximum": 65535,
    "pattern": rf"^((\[{_IP}+\]|[0-9.]+):)?{_PORT_PATTERN}(:{_PORT_PATTERN})?(/(tcp|udp))?$",
    "patternErrorMessage": "is not a port; write [HOSTIP:]HOSTPORT[:PORT][/PROTOCOL]",
}
NAMESERVERS: Final[Schema] = {"items": ADDRESS, "maxItems": 3}  # MAXNS of resolv.conf(5)
DOMAIN: Final[Schema] = {
    "maxLength": 253,
    "pattern": HOSTNAME["pattern"].replace(")*$", r")*\.?$"),
    "patternErrorMessage": "is not a valid domain: up to 63 letters, digits and - between dots",
}
DOMAINS: Final[Schema] = {"items": {"type": "string", **DOMAIN}, "maxItems": 32}
OPTIONS: Final[Schema] = {
    "items": {
        "type": "string",
        "pattern": "^[a-z][a-z0-9-]{0,30}(:[0-9]{1,5})?$",
        "patternErrorMessage": "is not an option of resolv.conf(5), such as ndots:2",
    },
    "maxItems": 32,
}
LINK: Final[Schema] = {
    "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$",
    "patternErrorMessage": "is not a valid name of a link of the host",
}
INTERFACE: Final[Schema] = {
    "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,126}$",
    "patternErrorMessage": "is not a valid name of an interface, such as eth0",
}
MTU: Final[Schema] = {"minimum": LEAST_MTU, "maximum": MOST_MTU}
MAC: Final[Schema] = {
    "pattern": "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$",
    "patternErrorMessage": 'is not a MAC address, such as "02:42:0a:14:00:0b"',
}
