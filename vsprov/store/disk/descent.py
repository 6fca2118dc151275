"""Moving through a directory tree of any depth with a fixed number of descriptors."""

from __future__ import annotations

import os
from collections.abc import Container

from msgspec import Struct

from vsprov.kernel.paths import FOLDER, GONE


class _Level(Struct):
    name: str
    inode: tuple[int, int]  # st_dev, st_ino
    left: list[str]


class Descent:
    """A position in the tree below the directory open as `top`, which may change meanwhile.

    Follows no symbolic link and stays on one file system. Going up is by `..`, so it is checked where that
    leads.
    """

    def __init__(self, top: int) -> None:
        status = os.fstat(top)
        self._device = status.st_dev
        self._levels = [_Level("", (status.st_dev, status.st_ino), [])]
        self._top = top
        self.here = os.dup(top)

    def close(self) -> None:
        os.close(self.here)

    @property
    def left(self) -> list[str]:
        """The subdirectories of this directory that the caller still wants to enter."""
        return self._levels[-1].left

    @property
    def is_at_top(self) -> bool:
        return len(self._levels) == 1

    @property
    def name(self) -> str:
        """The name of this directory; "" at the top."""
        return self._levels[-1].name

    @property
    def path(self) -> str:
        """The path from the top; "" at the top itself."""
        return "/".join(level.name for level in self._levels[1:])

    def enter(self, name: str, without: Container[int] = ()) -> os.stat_result | None:
        """Go to a subdirectory; its status.

        None, without going there, if it is on another file system or its inode number is in `without`.
        """
        fd = os.open(name, FOLDER, dir_fd=self.here)
        status = os.fstat(fd)
        if status.st_dev != self._device or status.st_ino in without:
            os.close(fd)
            return None
        self._move(fd)
        self._levels.append(_Level(name, (status.st_dev, status.st_ino), []))
        return status

    def leave(self) -> bool:
        """Go to the parent. False, without going there, if this directory was moved meanwhile."""
        self._levels.pop()
        return self._go(self.here, "..", self._levels[-1])

    def recover(self) -> None:
        """After `leave` has failed: go to the deepest directory that is where it was entered."""
        entered, self._levels = self._levels[1:], self._levels[:1]
        self._move(os.dup(self._top))
        for level in entered:
            if not self._go(self.here, level.name, level):
                return
            self._levels.append(level)

    def _go(self, folder: int, name: str, level: _Level) -> bool:
        try:
            fd = os.open(name, FOLDER, dir_fd=folder)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return False
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != level.inode:
            os.close(fd)
            return False
        self._move(fd)
        return True

    def _move(self, fd: int) -> None:
        os.close(self.here)
        self.here = fd
