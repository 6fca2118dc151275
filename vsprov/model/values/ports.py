"""Ports of servers and of the host, and their canonical forms.

Each `parse_*` takes a YAML scalar and raises `UnitError` with a hint.
"""

from __future__ import annotations

import re
from typing import Any, Final

from vsprov.model.suggest import did_you_mean
from vsprov.model.values.addresses import IP, parse_host_address
from vsprov.model.values.patterns import Schema
from vsprov.model.values.units import UnitError, short

PROTOCOLS = ("tcp", "udp")
_PORT_PATTERN = "[0-9]{1,5}(-[0-9]{1,5})?"


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


# Patterns are for editors; the parsers above have more specific errors.
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
    "pattern": rf"^((\[{IP}+\]|[0-9.]+):)?{_PORT_PATTERN}(:{_PORT_PATTERN})?(/(tcp|udp))?$",
    "patternErrorMessage": "is not a port; write [HOSTIP:]HOSTPORT[:PORT][/PROTOCOL]",
}
