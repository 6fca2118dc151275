"""Tar archives for the tests, honest and hostile, built member by member."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

# linux/capability.h, struct vfs_cap_data: revision 2, effective; CAP_NET_RAW permitted.
NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def member(name: str, data: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member with its content; any attribute of tarfile.TarInfo may be given."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def folder(name: str, **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, **{"type": tarfile.DIRTYPE, "mode": 0o755, **attributes})


def link(name: str, target: str, **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, **{"type": tarfile.SYMTYPE, "linkname": target, **attributes})


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """The archive of `members`, uncompressed, in the pax format."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    path.write_bytes(packed(*members))
    return path
