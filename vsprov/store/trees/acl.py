"""POSIX access control lists, acl(5), as extended attributes and in pax headers.

While a file has one, the group bits of its mode are not the rights of its group but the mask, the most that
any named user or group may have. A mode without its list would give these rights to the group.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import NamedTuple

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
ATTRIBUTES = (ACCESS, DEFAULT)
TEXTS = {"SCHILY.acl.access": ACCESS, "SCHILY.acl.default": DEFAULT}  # pax headers of star, tar and bsdtar

# linux/posix_acl.h and posix_acl_xattr.h
VERSION = struct.pack("<I", 2)
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 0xFFFFFFFF

_ENTRY = struct.Struct("<HHI")
_TAGS = {
    ("u", False): USER_OBJ,
    ("u", True): USER,
    ("g", False): GROUP_OBJ,
    ("g", True): GROUP,
    ("m", False): MASK,
    ("o", False): OTHER,
}
_WORDS = {"user": "u", "group": "g", "mask": "m", "other": "o"}
_RIGHTS = {"r": 4, "w": 2, "x": 1, "-": 0}


class Entry(NamedTuple):
    """One entry; `id` is that of a named user or group."""

    tag: int
    rights: int
    id: int


def remove(file: int | str) -> None:
    """Remove the lists of an open or named file or directory."""
    for name in set(ATTRIBUTES) & set(os.listxattr(file)):
        os.removexattr(file, name)


def parse(raw: bytes) -> list[Entry]:
    """The entries of an attribute. Raises ValueError if it is not a list."""
    if raw[:4] != VERSION or (len(raw) - 4) % _ENTRY.size:
        raise ValueError("is not an access control list")
    return [Entry(*fields) for fields in _ENTRY.iter_unpack(raw[4:])]


def pack(entries: list[Entry]) -> bytes:
    """The attribute of these entries, in the order that the kernel requires."""
    ordered = sorted(entries, key=lambda entry: (entry.tag, entry.id))
    return VERSION + b"".join(_ENTRY.pack(*entry) for entry in ordered)


def shift(raw: bytes, base: int, count: int) -> bytes:
    """The list with ids from `base` as ids from 0. Raises ValueError for an id that is not among `count`."""
    found = []
    for entry in parse(raw):
        number = entry.id - base if entry.tag in (USER, GROUP) else NO_ID
        if entry.tag in (USER, GROUP) and not 0 <= number < count:
            raise ValueError(f"names {entry.id}, none of the server's ids")
        found.append(entry._replace(id=number))
    return pack(found)


def check(raw: bytes, highest: int) -> bytes:
    """The list itself. Raises ValueError if it is invalid or names an id above `highest`."""
    for entry in parse(raw):
        if entry.tag in (USER, GROUP) and entry.id > highest:
            raise ValueError(f"names {entry.id}; the highest id in a server is {highest}")
    return raw


def rights_of_group(mode: int, raw: bytes) -> int:
    """The mode with the group bits that the owning group has by the list."""
    rights = {entry.tag: entry.rights for entry in parse(raw)}
    group = rights.get(GROUP_OBJ, 0) & rights.get(MASK, 7)
    return mode & ~0o070 | group << 3


def from_text(text: str, find: Callable[[str, str], int]) -> bytes:
    """The list in `text`, such as `user::rw-,user:www-data:r--:33,group::r--,mask::r--,other::---`.

    The fourth field is the id; without it, `find` returns the id of a "user" or "group" with this name.
    Raises ValueError if the text is not a list, and whatever `find` raises.
    """
    entries = []
    for line in text.replace(",", "\n").split("\n"):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        word, name, rights, *number = line.removeprefix("default:").split(":")
        key = _WORDS.get(word, word)
        tag = _TAGS.get((key, bool(name)))
        if tag is None or len(rights) != 3 or len(number) > 1 or not set(rights) <= _RIGHTS.keys():
            raise ValueError(f"is not an access control list: {line!r}")
        identity = NO_ID
        if name:
            digits = number[0] if number else name
            known = digits.isascii() and digits.isdigit() and len(digits) <= 10
            identity = int(digits) if known else find("user" if key == "u" else "group", name)
        entries.append(Entry(tag, sum(map(_RIGHTS.__getitem__, rights)), identity))
    return pack(entries)
