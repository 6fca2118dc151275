"""Empty ext4 file systems. One of each size is made by mkfs.ext4, and the others are written like it.

What mkfs.ext4 has written is kept in memory, for the servers of one command: there is no file that a crash
could leave incomplete, or that somebody could change. Only the UUID differs, by which udev and blkid(8) tell
file systems apart. With the feature `metadata_csum_seed`, no other checksum than that of the superblock
depends on it.
"""

from __future__ import annotations

import os
import uuid
from threading import Lock

from vsprov.kernel.storage import ext4
from vsprov.store.space import programs
from vsprov.store.unpack.holes import stored

_OPTIONS = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
_MOST_KEPT = 8 << 20  # bytes; those of larger file systems are made one by one

Pieces = list[tuple[int, bytes]]  # (offset, data)
_kept: dict[tuple[int, int | None], Pieces] = {}
_lock = Lock()


def make(image: str, path: str, fd: int, size: int, inodes: int | None) -> None:
    """Make an empty file system of `size` bytes in the empty file `path`, which is open as `fd`.

    `inodes` is their number, None for any. `image` is for messages.
    """
    os.ftruncate(fd, size)
    key = size, inodes
    with _lock:
        pieces = _kept.get(key)
        if pieces is None:
            number = () if inodes is None else ("-N", str(inodes))
            features = (
                "-O",
                "metadata_csum,metadata_csum_seed",
                "-b",
                str(ext4.BLOCK),
                "-m",
                "0",
                "-E",
                _OPTIONS,
            )
            programs.run(image, "mkfs.ext4", "-q", "-F", *features, *number, path)
            if found := _read(fd, size):
                _kept[key] = found
            return
    for at, data in pieces:
        while done := os.pwrite(fd, data, at):
            at, data = at + done, data[done:]
    ext4.set_uuid(fd, uuid.uuid4().bytes)


def _read(fd: int, size: int) -> Pieces | None:
    """What a file contains between its holes; None if that is too much."""
    parts = stored(fd, size)
    if sum(length for _, length in parts) > _MOST_KEPT:
        return None
    return [(at, os.pread(fd, length, at)) for at, length in parts]
