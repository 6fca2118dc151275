"""The names of links on the host and in servers, their marks, and MAC addresses. Pure functions of names.

The kernel limits names of links to 15 bytes (IFNAMSIZ). Names are therefore made from a hash, and the
readable name is an alternative name of the link (ip-link(8), altname), which has up to 127 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator

LONGEST_NAME, LONGEST_ALTNAME = 15, 127
MARK = "vsprov"
POOL, POOL_LINK = "quota/", "vq"
_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"


def _hash(*words: str) -> int:
    """64 bits that depend on all words; none of them contains a line break."""
    return int.from_bytes(hashlib.blake2b("\n".join(words).encode(), digest_size=8).digest(), "big")


def _short(prefix: str, *words: str) -> str:
    """A name of 15 bytes."""
    number = _hash(*words)
    return prefix + "".join(_DIGITS[number >> shift & 31] for shift in range(0, 65, 5))


def link_name(instance: str, server: str, interface: str) -> str:
    """The name of the host's end of a server's interface."""
    return _short("vs", instance, server, interface)


def bridge_name(instance: str, network: str) -> str:
    """The name of the bridge that vsprov creates for a network."""
    return _short("vb", instance, network)


def pool_link_name(instance: str, pool: str, direction: str) -> str:
    """The name of the intermediate device (ifb) of a pool: `direction` is "egress" or "ingress"."""
    return _short(POOL_LINK, instance, pool, direction)


def altname(*words: str) -> str:
    """The readable name of a link: its words joined by dots; "" if that is too long for the kernel."""
    name = ".".join(words)
    return name if LONGEST_NAME < len(name.encode()) <= LONGEST_ALTNAME else ""


def inner_name(interface: str) -> tuple[str, str]:
    """(name, alternative name or "") in the server of an interface with this name in the manifest."""
    if len(interface.encode()) <= LONGEST_NAME:
        return interface, ""
    start = interface.encode()[:9].decode(errors="ignore")
    return f"{start}-{_short('', interface)[:5]}", interface


def server_alias(instance: str, server: str) -> str:
    """The mark (ifalias) of the links of a server."""
    return f"{MARK}:{instance}:{server}"


def network_alias(instance: str, network: str) -> str:
    """The mark (ifalias) of the links of a network itself."""
    return f"{MARK}:{instance}:network/{network}"


def pool_alias(instance: str, pool: str) -> str:
    """The mark (ifalias) of the intermediate devices of a pool."""
    return f"{MARK}:{instance}:{POOL}{pool}"


def owner_of(alias: str) -> tuple[str, str]:
    """(instance, object) in the mark of a link: object is the name of a server, "network/NAME" or
    "quota/NAME".

    ("", "") if vsprov did not create the link.
    """
    mark, _, rest = alias.partition(":")
    instance, colon, name = rest.partition(":")
    return (instance, name) if mark == MARK and colon else ("", "")


def address(alias: str) -> str:
    """The address of the object in the mark of a link: "Server/web"; "" if vsprov did not create the link."""
    name = owner_of(alias)[1]
    if not name:
        return ""
    kind, slash, rest = name.partition("/")
    return f"{kind.capitalize()}/{rest}" if slash else f"Server/{name}"


def macs(*words: str) -> Iterator[str]:
    """MAC addresses for an interface in the order in which to try them: locally administered, unicast."""
    for attempt in range(2**16):
        number = _hash("mac", *words, *([str(attempt)] if attempt else []))
        yield ":".join(["02", *(f"{number >> shift & 255:02x}" for shift in range(0, 40, 8))])


def mac(taken: Container[str], *words: str) -> str:
    """The first MAC address of `macs` that is not taken."""
    return next(each for each in macs(*words) if each not in taken)
