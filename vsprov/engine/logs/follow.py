"""Following logs: what is written to them from now on, whichever files it is in; waits by inotify(7)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from fcntl import F_DUPFD_CLOEXEC, fcntl

from msgspec.structs import replace

from vsprov.engine.logs.files import Block, File, Log, folder_of, is_same, open_log, path_of, pieces
from vsprov.kernel import inotify
from vsprov.kernel.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE_SELF,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_TO,
)
from vsprov.store.instance import Instance

WRITTEN, GONE = IN_MODIFY | IN_ATTRIB, IN_DELETE_SELF | IN_MOVE_SELF
TURN = 1 << 18  # bytes of a log before others have their turn


def follow(
    instance: Instance, logs: Mapping[str, Log], on_loss: Callable[[str], None]
) -> Iterator[list[tuple[str, Block]]]:
    """What is written to the logs of servers after they were opened, as it comes. Ends when all these servers
    have been removed. The logs can be closed.

    Calls `on_loss` when a file of a server was removed, because there were newer ones, before it was read.
    """
    queue = inotify.queue()
    followed: dict[int, _Followed] = {}  # by watch
    try:
        ready = {name: _Followed(instance, name, log, queue, followed, on_loss) for name, log in logs.items()}
    except BaseException:
        _close(queue, followed)
        raise
    return _follow(queue, followed, ready)


def _follow(
    queue: int, followed: dict[int, _Followed], ready: dict[str, _Followed]
) -> Iterator[list[tuple[str, Block]]]:
    try:
        while followed:
            if batch := [(name, block) for name, one in ready.items() for block in one.read()]:
                yield batch
            for one in ready.values():
                if one.is_gone and not one.has_more:
                    one.close()
            ready = {name: one for name, one in ready.items() if one.has_more}
            for watch, mask, _ in inotify.events(queue, wait=not ready) if followed else ():
                if found := followed.get(watch):
                    ready[found.name] = found
                    found.is_gone |= watch == found.folder and bool(mask & GONE)
    finally:
        _close(queue, followed)


def _close(queue: int, followed: dict[int, _Followed]) -> None:
    for one in tuple({one.name: one for one in followed.values()}.values()):
        one.close()
    os.close(queue)


class _Followed:
    """A log that is followed. `has_more`: there was more to read than one turn; `is_gone`: the server is."""

    def __init__(
        self,
        instance: Instance,
        name: str,
        log: Log,
        queue: int,
        watches: dict[int, _Followed],
        on_loss: Callable[[str], None],
    ) -> None:
        self.name, self.has_more, self.is_gone = name, False, False
        self._instance, self._queue, self._watches = instance, queue, watches
        self._on_loss = on_loss
        self._path = path_of(instance, name)
        self._file: File | None = None
        self._number = 0  # of this file, or of the last one if there is none
        self._offset = 0  # in this file
        self._later: list[File] = []
        self._watch = -1
        self.folder = inotify.watch(queue, folder_of(instance, name), IN_CREATE | IN_MOVED_TO | GONE)
        watches[self.folder] = self
        if log.files:
            self._go_on(_duplicate(log.files[-1]), log.files[-1].size)

    def read(self) -> Iterator[Block]:
        """What has been written since, at most TURN bytes."""
        left = TURN
        while left > 0:
            for block in self._new(left):
                left -= len(block.data)
                yield block
            if left > 0 and not self._next():
                break
        self.has_more = left <= 0

    def _new(self, most: int) -> Iterator[Block]:
        """What is new in this file."""
        if self._file is None:
            return
        size = os.fstat(self._file.fd).st_size
        if size < self._offset:
            self._offset = 0  # it was cut
        end = min(size, self._offset + most)
        for block in pieces(self._file, self._offset, end):
            self._offset = block.offset + len(block.data)
            yield block
        self._offset = end  # there may be a hole before it

    def _next(self) -> bool:
        """Go on to the next file after all of this one has been read; False if there is none."""
        if self._file is not None:
            if is_same(self._path, self._file.fd):
                return False
            if os.fstat(self._file.fd).st_size != self._offset:
                return True  # written before the file was put aside
        if not self._later:
            self._find_later()
        if self._later:
            self._go_on(self._later.pop(0), 0)
            return True
        if self._file is not None and not os.fstat(self._file.fd).st_nlink:
            self._leave()  # as long as it is open, there is no event for the removal of its directory
        return False

    def _find_later(self) -> None:
        """Open the files after this one, also one of the same number that has replaced it."""
        with open_log(self._instance, self.name) as log:
            if self._number and log.files and log.files[0].number > self._number + 1:
                self._on_loss(self.name)
            for file in log.files:
                if file.number > self._number or (
                    is_same(self._path, file.fd)
                    and (self._file is None or not os.path.sameopenfile(file.fd, self._file.fd))
                ):
                    self._later.append(_duplicate(file))

    def _go_on(self, file: File, offset: int) -> None:
        """Read a file from an offset on."""
        self._leave()
        self._file, self._number, self._offset = file, file.number, offset
        self._watch = inotify.watch(self._queue, f"/proc/self/fd/{file.fd}", WRITTEN)
        self._watches[self._watch] = self

    def _leave(self) -> None:
        if self._file is not None:
            self._watches.pop(self._watch, None)
            inotify.forget(self._queue, self._watch)
            os.close(self._file.fd)
            self._file = None

    def close(self) -> None:
        """End to watch."""
        self._leave()
        while self._later:
            os.close(self._later.pop().fd)
        self._watches.pop(self.folder, None)
        inotify.forget(self._queue, self.folder)


def _duplicate(file: File) -> File:
    return replace(file, fd=fcntl(file.fd, F_DUPFD_CLOEXEC, 3))
