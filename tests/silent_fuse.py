"""A FUSE file system whose server stops answering; linux/fuse.h describes the messages."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

LOOKUP, GETATTR, INIT = 1, 3, 26
STARTED = struct.pack("=IIIIHHIIHHI28x", 7, 31, 1 << 16, 0, 12, 10, 1 << 16, 1, 0, 0, 0)  # fuse_init_out
DIRECTORY = struct.pack("=QII6Q10I", 60, 0, 0, 1, *[0] * 8, 0o40755, 2, 0, 0, 0, 512, 0)  # fuse_attr_out
MNT_FORCE, MNT_DETACH = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class SilentFuse:
    """A mounted file system whose server takes every request and answers none but the first, INIT.

    `lookups`: the number of files that it says are absent before that; its root is a directory so far. The
    kernel does not let a process end that waits for an answer to a request that the server has taken.
    """

    point: Path
    device: int
    lookups: int
    asked: threading.Event = field(default_factory=threading.Event)  # a request that it does not answer

    def serve(self) -> None:
        """Take requests until the connection is aborted."""
        while True:
            try:
                request = os.read(self.device, 1 << 17)
            except OSError:
                return
            _length, kind, unique = struct.unpack_from("=IIQ", request)
            if kind == INIT:
                self.answer(unique, STARTED)
            elif kind == LOOKUP and self.lookups:
                self.lookups -= 1
                self.answer(unique, error=errno.ENOENT)
            elif kind == GETATTR and self.lookups:
                self.answer(unique, DIRECTORY)
            else:
                self.asked.set()

    def answer(self, unique: int, content: bytes = b"", error: int = 0) -> None:
        """Answer one request."""
        os.write(self.device, struct.pack("=IiQ", 16 + len(content), -error, unique) + content)


@contextmanager
def silent_fuse(point: Path, lookups: int = 0) -> Iterator[SilentFuse]:
    """Mount one at `point`, which is created."""
    point.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if _libc.mount(b"silent", bytes(point), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), "mount")
    made = SilentFuse(point, device, lookups)
    server = threading.Thread(target=made.serve, daemon=True)
    server.start()
    try:
        yield made
    finally:
        # umount(8) would ask the file system, too. MNT_FORCE aborts the connection, and all requests with it.
        if _libc.umount2(bytes(point), MNT_FORCE | MNT_DETACH):
            raise OSError(ctypes.get_errno(), "umount2")
        server.join()
        os.close(device)
