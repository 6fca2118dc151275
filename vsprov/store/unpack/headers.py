"""Reading tar headers.

Most members have a ustar header, pax(1), with at most one extended header before it. These are parsed here,
in a few microseconds; tarfile would take half of the total time. Everything else (GNU long names and sparse
files, binary numbers, Version 7 headers, global headers) is left to tarfile, which supports all formats.
"""

from __future__ import annotations

import re
import tarfile
from typing import Any, NamedTuple

from vsprov.store.trees import acl

from .refused import Refused
from .stream import Stream

MAX_HEADER = 1 << 20  # bytes of a long name or of a member's extended header
BLOCK = 512
END = bytes(BLOCK)
POSIX, GNU = b"ustar\x0000", b"ustar  \x00"
COMMON = b"\x0001234567"  # the types in POSIX, CONTTYPE last
EXTENDED = b"x"
ATTRIBUTE = "SCHILY.xattr."
NAMES = ("utf-8", "surrogateescape")


class Member(NamedTuple):
    """One member; names as os.fsdecode returns them."""

    name: str
    kind: bytes  # tarfile.REGTYPE etc.
    mode: int
    uid: int
    gid: int
    size: int  # of the file, including holes
    mtime: int  # ns
    target: str
    device: tuple[int, int]
    attributes: tuple[tuple[str, bytes], ...]
    sparse: tarfile.TarInfo | None


class Members:
    """The members of the archive in `stream`, which is positioned at the content of the last one returned.

    With `may_lack_end` the archive may end after a member, without the block of zeros: umoci(1) writes such
    layers, which are verified by their digests.
    """

    def __init__(self, stream: Stream, *, may_lack_end: bool) -> None:
        self.stream = stream
        self.may_lack_end = may_lack_end
        # Not "r", which reads the first header immediately.
        self.tar = tarfile.TarFile(
            fileobj=stream,  # type: ignore[arg-type]
            mode="w",
            tarinfo=Header,
            encoding=NAMES[0],
            errors=NAMES[1],
        )
        self.end = 0  # of the last member, with its padding

    def next(self) -> Member | None:
        """The next member; None at the end of the archive."""
        self.stream.seek(self.end)
        block = self.stream.read(BLOCK)
        if block == END or (not block and self.may_lack_end):
            return None
        member = None if self.tar.pax_headers else self._quick(block)
        if member is None:
            self.stream.give_back(block)
            member = self._any()
        return member

    def _quick(self, block: bytes) -> Member | None:
        """A member with a common header; None, with nothing consumed, for a header of another format."""
        more = b""
        try:
            extended: dict[str, bytes] = {}
            header = block
            size = number(block[124:136]) if block[156:157] == EXTENDED else 0
            if 0 < size <= MAX_HEADER and is_sound(block):
                more = self.stream.read(size + -size % BLOCK + BLOCK)
                extended = records(more[:size])
                header = more[-BLOCK:]
            member = common(header, extended) if header[156] in COMMON and is_sound(header) else None
        except (ValueError, IndexError):
            member = None  # tarfile can read it or raises an error
        if member is None:
            self.stream.give_back(more)
            return None
        size = member.size if member.kind == tarfile.REGTYPE else 0
        self.end = self.stream.tell() + size + -size % BLOCK
        return member

    def _any(self) -> Member:
        """A member with a header of any format."""
        first = self.stream.tell() == 0
        try:
            info = self.tar.tarinfo.fromtarfile(self.tar)
        except tarfile.HeaderError as error:
            if first:
                raise Refused("it is damaged, or not a tar archive") from error
            raise Refused("it is truncated or damaged: the end of the archive is missing") from error
        self.end = self.tar.offset
        attributes = (
            (attribute_name(key), value.encode(*NAMES))
            for key, value in info.pax_headers.items()
            if key.startswith(ATTRIBUTE) or key in acl.TEXTS
        )
        return Member(
            name=info.name,
            kind=tarfile.REGTYPE if info.isreg() else info.type,
            mode=info.mode,
            uid=info.uid,
            gid=info.gid,
            size=info.size,
            mtime=modified(info.pax_headers.get("mtime", ""), int(info.mtime)),
            target=info.linkname,
            device=(info.devmajor, info.devminor),
            attributes=tuple(attributes),
            sparse=info if info.issparse() else None,
        )


def is_sound(block: bytes) -> bool:
    """Whether the checksum is right: the sum of the bytes, with spaces in place of the checksum itself."""
    return number(block[148:156]) == sum(block) - sum(block[148:156]) + 8 * 32


def number(field: bytes) -> int:
    """An octal number; ValueError for GNU binary numbers."""
    return int(field.strip(b" \0") or b"0", 8)


def text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(*NAMES)


def records(payload: bytes) -> dict[str, bytes]:
    """The records of an extended header, pax(1); ValueError if they are damaged or not supported here."""
    found = {}
    at = 0
    while at < len(payload):
        blank = payload.index(b" ", at, at + 20)
        end = at + int(payload[at:blank])
        key, equals, value = payload[blank + 1 : end - 1].partition(b"=")
        if end <= blank or not equals or payload[end - 1 : end] != b"\n":
            raise ValueError("not a record")
        if key.startswith((b"GNU.", b"hdrcharset")):
            raise ValueError("a sparse file, or names that are not in UTF-8")
        found[key.decode(*NAMES)] = value
        at = end
    return found


def common(block: bytes, extended: dict[str, bytes]) -> Member | None:
    """A member from a ustar header and an extended header; None for headers of another format."""
    magic = block[257:265]
    if magic not in (POSIX, GNU):
        return None
    name, kind = text(block[:100]), block[156:157]
    if magic == POSIX and block[345]:
        name = f"{text(block[345:500])}/{name}"
    if kind == tarfile.AREGTYPE:  # in old archives, directories are files with a trailing slash
        kind = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
    elif kind == tarfile.CONTTYPE:
        kind = tarfile.REGTYPE
    name = name.rstrip("/")
    mode, uid, gid, size = (
        number(block[at:end]) for at, end in ((100, 108), (108, 116), (116, 124), (124, 136))
    )
    target, seconds = text(block[157:257]), number(block[136:148])
    mtime = seconds * 10**9
    attributes: tuple[tuple[str, bytes], ...] = ()
    if extended:
        name = extended["path"].decode(*NAMES).rstrip("/") if "path" in extended else name
        target = extended["linkpath"].decode(*NAMES) if "linkpath" in extended else target
        uid, gid, size = (
            int(extended.get(key, was)) for key, was in (("uid", uid), ("gid", gid), ("size", size))
        )
        if "mtime" in extended:
            mtime = modified(extended["mtime"].decode("ascii"), seconds)
        attributes = tuple(
            (attribute_name(key), value)
            for key, value in extended.items()
            if key.startswith(ATTRIBUTE) or key in acl.TEXTS
        )
    special = kind in (tarfile.CHRTYPE, tarfile.BLKTYPE)
    device = (number(block[329:337]), number(block[337:345])) if special else (0, 0)
    return Member(name, kind, mode, uid, gid, size, mtime, target, device, attributes, None)


def attribute_key(name: str) -> str:
    """The key of an extended attribute in a record, as GNU tar writes it: a key ends at its first "="."""
    return ATTRIBUTE + name.replace("%", "%25").replace("=", "%3D")


def attribute_name(key: str) -> str:
    """The inverse of `attribute_key`; another key is its own name."""
    if not key.startswith(ATTRIBUTE):
        return key
    return key.removeprefix(ATTRIBUTE).replace("%3D", "=").replace("%25", "%")


def modified(exact: str, seconds: int) -> int:
    """The mtime of a member in ns, exact if an extended header has it: a float would be rounded."""
    found = re.fullmatch(r"(-?)([0-9]{1,18})(?:\.([0-9]*))?", exact, re.ASCII)
    when = seconds * 10**9
    if found:
        when = int(found[2]) * 10**9 + int(((found[3] or "") + "000000000")[:9])
        when = -when if found[1] else when
    most = 2**62 * 10**9  # more seconds are no time_t
    return max(min(when, most), -most)


class Header(tarfile.TarInfo):
    """A header that prevents tarfile from reading unlimited data into memory.

    tarfile calls `_proc_member` for each header.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type not in (
            *tarfile.SUPPORTED_TYPES,
            tarfile.XGLTYPE,
            tarfile.XHDTYPE,
            tarfile.SOLARIS_XHDTYPE,
        ):
            raise Refused(f"{self.name!r}: has the unknown type {self.type!r}")
        named = self.type in tarfile.REGULAR_TYPES or self.type in (
            tarfile.LNKTYPE,
            tarfile.SYMTYPE,
            tarfile.DIRTYPE,
        )
        if not named and self.size > MAX_HEADER:
            raise Refused(
                f"{self.name!r}: has a header of {self.size} bytes; at most {MAX_HEADER} are allowed"
            )
        return super()._proc_member(tar)  # type: ignore[misc]
