"""Which servers have changed, as the kernel announces it: marks on their home groups, and their ends."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from contextlib import suppress

from vsprov.kernel import inotify

_HOME = inotify.IN_ATTRIB | inotify.IN_CREATE | inotify.IN_DELETE_SELF


class Watcher:
    """One inotify(7) instance for all that waits for servers in an apply, because a user may have few.

    The end of the keeper concerns all of them.
    """

    def __init__(self) -> None:
        self._poll: select.epoll | None = None
        self._queue = self._keeper = -1
        self._descriptors: dict[str, set[int]] = {}  # by key
        self._keys: dict[int, set[str]] = {}  # by watch descriptor

    def fileno(self) -> int:
        """Readable when `changed` has something to return; -1 as long as nothing is watched."""
        return self._poll.fileno() if self._poll else -1

    def watch(self, home: str, key: str) -> None:
        """Watch a home group for whoever waits with this key."""
        if self._poll is None:
            self._poll, self._queue = select.epoll(), inotify.queue()
            self._poll.register(self._queue, select.EPOLLIN)
        files = (f"{home}/cgroup.events", f"{home}/payload/cgroup.events")
        for path, mask in ((home, _HOME), *((file, inotify.IN_MODIFY) for file in files)):
            descriptor = inotify.watch_if_present(self._queue, path, mask)
            if descriptor is None:  # it has just been removed, as whoever waits is going to see
                continue
            self._keys.setdefault(descriptor, set()).add(key)
            self._descriptors.setdefault(key, set()).add(descriptor)

    def follow(self, keeper: int) -> None:
        """Let the end of this connection to the keeper be a change for everyone, once."""
        if self._poll is not None:
            with suppress(FileExistsError):  # it is followed already
                self._poll.register(keeper, select.EPOLLIN)
            self._keeper = keeper

    def forget(self, key: str) -> None:
        """Nobody waits with this key any more."""
        for descriptor in self._descriptors.pop(key, ()):
            keys = self._keys[descriptor]
            keys.discard(key)
            if not keys:
                inotify.forget(self._queue, descriptor)
                del self._keys[descriptor]

    def changed(self) -> Iterable[str]:
        """The keys of what has changed since the last call; call it when `fileno` is readable."""
        assert self._poll is not None
        found: dict[str, None] = {}
        for fd, _ in self._poll.poll(0):
            if fd == self._keeper:
                self._poll.unregister(fd)  # until there is another one
                self._keeper = -1
                found.update(dict.fromkeys(self._descriptors))
            else:
                for descriptor, mask, _ in inotify.events(self._queue):
                    lost = mask & inotify.IN_Q_OVERFLOW
                    found.update(dict.fromkeys(self._descriptors if lost else self._keys.get(descriptor, ())))
        return found

    def close(self) -> None:
        """Watch nothing any more."""
        if self._poll is not None:
            self._poll.close()
            os.close(self._queue)
            self._poll, self._queue, self._keeper = None, -1, -1
