"""Addresses, subnets and peers, and their canonical forms.

The canonical form is the one that the kernel and its tools print: IPv6 addresses are compressed (RFC 5952).
Each `parse_*` takes a YAML scalar and raises `UnitError` with a hint.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from vsprov.model.values.patterns import NAME_PATTERN, Schema
from vsprov.model.values.units import UnitError, short

if TYPE_CHECKING:  # importing ipaddress takes 1 ms, which manifests without networks need not pay
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    Address = IPv4Address | IPv6Address
    Subnet = IPv4Network | IPv6Network
else:
    Address = Subnet = object

AUTO = "auto"
DEFAULT = "default"

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


# -- schemas. Patterns are for editors; the parsers above have more specific errors.

IP = "[0-9A-Fa-f:.]"

ADDRESS: Final[Schema] = {
    "type": "string",
    "pattern": f"^{IP}+$",
    "patternErrorMessage": f"is not an IP address; {_EXAMPLE}",
}
ADDRESSES: Final[Schema] = {
    "items": {
        "type": "string",
        "pattern": f"^(auto|{IP}+(/[0-9]{{1,3}})?)$",
        "patternErrorMessage": "is not an IP address; write auto, 10.20.0.11/24 or fd20::11/64",
    },
    "maxItems": 64,
}
_SUBNET: Final[Schema] = {
    "type": "string",
    "pattern": f"^{IP}+/[0-9]{{1,3}}$",
    "patternErrorMessage": "is not a subnet; write 10.20.0.0/24 or fd20::/64",
}
SUBNETS: Final[Schema] = {"items": _SUBNET, "maxItems": 16}
DESTINATION: Final[Schema] = {
    "type": "string",
    "pattern": f"^(default|{IP}+/[0-9]{{1,3}})$",
    "patternErrorMessage": "is not a destination; write default or 10.30.0.0/16",
}
PEERS: Final[Schema] = {
    "items": {
        "type": "string",
        "pattern": rf"^({IP}+(/[0-9]{{1,3}})?|{NAME_PATTERN[1:-1]})$",
        "patternErrorMessage": "is not an address, a subnet, or a name of a server or network",
    },
    "maxItems": 256,
}
