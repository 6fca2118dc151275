"""Images that several servers may have mounted at once: those of volumes.

volumes/<name>/disk.img     as that of a server; the root of its file system is that of the volume
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from threading import Lock

from vsprov.kernel.storage import ext4
from vsprov.store.space import image, image_state, writing

LOST_FOUND = "lost+found"
_FIRST = 11  # inode of files; those below are of ext4 itself
_AT_ONCE = Lock()  # two threads must not attach an image twice
_SECONDS = 2.0  # until we look whether somebody else has attached it meanwhile


def tree(folder: str) -> int:
    """The fd of a detached mount of an image: another one, if it is mounted already.

    It is detached when that, and every other mount of it, has gone.
    """
    end = time.monotonic() + image.SECONDS_TO_DETACH
    with _AT_ONCE:
        while True:
            mounted = image.mount_again(folder)
            if mounted is not None:
                return mounted
            try:
                mounted = image.mount(folder, _SECONDS)
            except image.InUseError:
                if time.monotonic() > end:
                    raise
                continue
            _remove_lost_found(mounted)
            return mounted


def make(folder: str, size: int, inodes: int | None, fill: Callable[[str], None]) -> None:
    """Create an image in a directory; `fill` gets the path, for this process, of the root of its file system.

    When this returns, nothing has it mounted, and the kernel has written all to the file.
    """
    image.make(folder, size, inodes)
    mounted = tree(folder)
    try:
        with writing.written(folder, mounted):
            fill(place(mounted))
    finally:
        os.close(mounted)
    image.wait_until_detached(folder)


def resize(folder: str, size: int, *, live: bool) -> None:
    """Make an image `size` bytes large, with all that is in it; `live` while it is mounted."""
    if live:
        image.grow(folder, size)
        return
    image.rebuild(folder, size)
    os.close(tree(folder))  # without what e2fsck may have made


def place(mounted: int) -> str:
    """The path, for this process, of the root of a mount; no link, to those who follow none."""
    return f"/proc/self/fd/{mounted}/."


def is_empty(folder: str) -> bool:
    """Whether an image has no files. False if that is not known, because it is mounted, or after a crash."""
    try:
        fd = os.open(image_state.path(folder), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = ext4.superblock(fd)
    finally:
        os.close(fd)
    return bool(found and not found.journal and found.inodes - found.free_inodes < _FIRST)


def _remove_lost_found(mounted: int) -> None:
    """Remove the directory that mkfs.ext4 and e2fsck make: a volume of a database has to be empty."""
    try:
        status = os.stat(LOST_FOUND, dir_fd=mounted, follow_symlinks=False)
        if (status.st_mode, status.st_uid) == (stat.S_IFDIR | 0o700, 0):
            os.rmdir(LOST_FOUND, dir_fd=mounted)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # e2fsck has put something in it
            raise
