"""Which servers may have changed, as the kernel announces it.

inotify(7) reports marks (extended attributes) on a control group, its creation and removal, and changes of
cgroup.events. The watches on a server precede its observation, so that no change is missed, and each event
leads to the servers that it concerns: nothing is polled, and of many servers only those are looked at.
"""

from __future__ import annotations

import os
import select
from collections.abc import Collection, Iterable
from typing import Literal

from msgspec import Struct

from vsprov.engine.look import machine, observe
from vsprov.engine.run import lock
from vsprov.kernel import cgroup, inotify
from vsprov.kernel.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
)
from vsprov.kernel.syscall import milliseconds
from vsprov.plan.observed import ObservedServer
from vsprov.store.instance import Instance

_GONE = IN_DELETE_SELF | IN_MOVE_SELF
_CAME = IN_CREATE | IN_MOVED_TO
_FOLDER = _CAME | IN_DELETE | IN_MOVED_FROM | IN_ATTRIB | _GONE

Seen = ObservedServer | None


class _Watched(Struct, frozen=True):
    """What a watch is on: the home group of a `server`, or a file in it; a `folder` whose entries have names
    of servers; the `top` group, in which there are pools as well; the `lock` file; or a directory `above` a
    folder that does not exist.
    """

    kind: Literal["server", "folder", "top", "lock", "above"]
    name: str = ""  # of the server


class ServerWatch:
    """Watches servers of an instance by their names, whether they exist or not."""

    def __init__(self, instance: Instance, names: Iterable[str]) -> None:
        self._instance, self._names = instance, frozenset(names)
        self._hierarchies = cgroup.find()
        self._host = machine.look(self._hierarchies, parent=instance.name)
        self._top = self._hierarchies.directory("", instance.name)
        self._groups: dict[str, None] = {}  # the directories that homes of servers may be in
        self._watched: dict[int, _Watched] = {}  # by watch descriptor
        self._held: set[str] = set()  # servers that the holder of the lock may be about to record as stopped
        self._holder = -1  # a pidfd of it
        self._queue = inotify.queue()
        try:
            self._watch_folders()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self._queue)
        self._forget_holder()

    def look(self, name: str) -> tuple[Seen, bool]:
        """(the server, or None if it does not exist; whether that is settled).

        It is not for a server that has ended while another command holds the lock, and may be about to record
        that it has stopped it. `changed` returns the name when that command ends.
        """
        for group in self._groups:
            home = f"{group}/{name}"
            if os.path.isdir(home):
                self._add(home, _FOLDER, _Watched("server", name))
                for file in (f"{home}/cgroup.events", f"{home}/payload/cgroup.events"):
                    self._add(file, IN_MODIFY, _Watched("server", name))
        seen = self._find(name)
        if seen is not None and seen.ended and self._holder < 0 and self._find_holder():
            seen = self._find(name)
        if seen is None or not seen.ended or self._holder < 0:
            return seen, True
        self._held.add(name)
        return seen, False

    def changed(self, seconds: float | None, *fds: int) -> tuple[Collection[str], Collection[int]]:
        """Wait, up to so many seconds, for events, or until one of the `fds` that is not -1 is readable.

        Returns (names of the servers to look at again, the descriptors that are readable).
        """
        poll = select.poll()
        for fd in (self._queue, self._holder, *fds):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(milliseconds(seconds))}
        names: set[str] = set()
        if self._holder in ready:
            names.update(self._release())
        if self._queue in ready:
            for event in inotify.events(self._queue):
                names.update(self._concerned(*event))
        return names, [fd for fd in fds if fd in ready]

    def _find(self, name: str) -> Seen:
        return observe.find(self._instance, self._hierarchies, self._host, name)

    def _concerned(self, descriptor: int, mask: int, entry: str) -> Collection[str]:
        """The servers that an event is about."""
        watched = self._watched.get(descriptor)
        if mask & IN_IGNORED:
            self._watched.pop(descriptor, None)
        if mask & IN_Q_OVERFLOW:
            return self._watch_folders()
        if watched is None:
            return ()
        if watched.kind == "server":
            return (watched.name,)
        if watched.kind == "lock":
            return self._release()
        if watched.kind == "above" or mask & _GONE:
            return self._watch_folders()
        found = {entry} & self._names
        if watched.kind == "top" and mask & _CAME and mask & IN_ISDIR:
            found |= self._watch_pool(entry)
        return found

    def _watch_folders(self) -> Collection[str]:
        """Watch what servers appear in, as far as it exists; all servers, which may have changed before."""
        for descriptor in [one for one, watched in self._watched.items() if watched.kind == "above"]:
            inotify.forget(self._queue, descriptor)
            del self._watched[descriptor]
        self._groups = {self._top: None}
        self._watch_folder(self._instance.servers, _Watched("folder"))
        self._watch_folder(self._top, _Watched("top"))
        for name in cgroup.children(self._top):
            self._watch_pool(name)
        return self._names

    def _watch_folder(self, path: str, watched: _Watched) -> None:
        while not self._add(path, _FOLDER, watched):
            # It may be created before the one above it is watched.
            if self._add(_existing(path), _FOLDER, _Watched("above")) and not os.path.isdir(path):
                return

    def _watch_pool(self, name: str) -> frozenset[str]:
        """Watch a pool, if the group of this name may be one; the servers in it."""
        path = f"{self._top}/{name}"
        is_server = os.path.isdir(f"{self._instance.servers}/{name}")
        if name.startswith(".") or is_server or not self._add(path, _FOLDER, _Watched("folder")):
            return frozenset()
        self._groups[path] = None
        return self._names.intersection(cgroup.children(path))

    def _add(self, path: str, mask: int, watched: _Watched) -> bool:
        """Watch a file or directory; False if it does not exist. A second watch on it is the same watch."""
        descriptor = inotify.watch_if_present(self._queue, path, mask)
        if descriptor is not None:
            self._watched[descriptor] = watched
        return descriptor is not None

    def _find_holder(self) -> bool:
        """Whether another command holds the lock. Its release truncates the file, which is watched first."""
        self._add(self._instance.lock, IN_MODIFY | IN_DELETE_SELF, _Watched("lock"))
        self._holder = lock.open_holder(self._instance)
        return self._holder >= 0

    def _release(self) -> Collection[str]:
        """The command that held the lock has released it, or has ended: the servers that were held up."""
        self._forget_holder()
        held, self._held = self._held, set()
        return held

    def _forget_holder(self) -> None:
        if self._holder >= 0:
            os.close(self._holder)
            self._holder = -1


def _existing(path: str) -> str:
    """The nearest directory above a path that exists."""
    above = os.path.dirname(path)
    return above if os.path.isdir(above) else _existing(above)
