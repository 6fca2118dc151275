"""Names, MAC addresses and MTUs of network interfaces, and their canonical forms.

Each `parse_*` takes a YAML scalar and raises `UnitError` with a hint. MAC addresses are in lower case, as the
kernel and its tools print them.
"""

from __future__ import annotations

import re
from typing import Any, Final

from vsprov.model.values.patterns import Schema
from vsprov.model.values.units import UnitError, short

LONGEST_NAME = 15  # bytes of the name of an interface; IFNAMSIZ of linux/if.h without the NUL
LONGEST_ALTNAME = 127  # bytes of an alternative name; ALTIFNAMSIZ without the NUL
LEAST_MTU = 68  # RFC 791; the kernel refuses less on an interface with IPv4
LEAST_MTU_V6 = 1280  # RFC 8200; the kernel removes IPv6 from an interface with less
MOST_MTU = 65535


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


# Patterns are for editors; the parsers above have more specific errors.
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
