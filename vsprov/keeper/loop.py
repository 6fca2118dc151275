"""The event loop of the keeper, in one thread, asleep in epoll(7) until something happens or is due.

It keeps servers, serves clients and sees inits end; everything else is done by the subjects, see
`subjects.subject`.
"""

from __future__ import annotations

import os
from _signal import SIG_IGN, SIGPIPE, SIGTERM, set_wakeup_fd, signal  # type: ignore[import-not-found]
from errno import EMFILE
from resource import RLIMIT_NOFILE, getrlimit
from time import time

from .exits import ends
from .exits.connector import Exits
from .kept import FDS, MORE_FDS, Kept, read_spec, readable
from .packets import close
from .probes.subject import Probes
from .protocol import FORMAT, LARGEST
from .runner import Runner
from .service import Service
from .subjects.console import Consoles
from .subjects.hooks import Hooks
from .subjects.restarts import Restarts
from .subjects.snapshots import Snapshots
from .timers import Timers

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from _socket import socket

    from .protocol import Ended, Keep, Request, Settle, Settled, Status

ENDED_FDS = 3  # descriptors of such a server
SUBJECTS = (
    Consoles,
    Probes,
    Hooks,
    Restarts,
    Snapshots,
)  # in the order in which they are told of each server
RESERVED = 12  # descriptors, for clients and the console of the last server


def open_exits() -> Exits | None:
    """The other source of exit statuses; None if this kernel has none, so that they stay unknown."""
    try:
        return Exits()
    except OSError:  # ENOENT, EPROTONOSUPPORT: not in this kernel; EPERM: no CAP_NET_ADMIN
        return None


class Loop(Service):
    """Waits for output, ends, clients and times. One turn copies at most a part of each console."""

    format, largest, most_fds = FORMAT, LARGEST, len(FDS + MORE_FDS)

    def __init__(self, instance: str, root: str, listener: int, client: int) -> None:
        super().__init__(listener)
        self.timers = Timers()
        self.kept: dict[str, Kept] = {}
        self.problems: dict[str, str] = {}  # {server: why it is not kept, or its exit not recorded}
        self.ending = False
        self.highest_fd = getrlimit(RLIMIT_NOFILE)[0] - RESERVED
        self.exits = None if ends.pidfds_keep_status() else open_exits()
        self.runner = Runner(self, instance, root)
        self.since = time()
        self.subjects = tuple(subject(self) for subject in SUBJECTS)
        signal(SIGPIPE, SIG_IGN)
        signal(SIGTERM, lambda *_: None)
        self.wakeup, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        set_wakeup_fd(end)
        self.watch(self.wakeup, self.end)
        self.begin(client)

    def serve(self) -> None:
        """Work until no server and no client is left and nothing is to be done, or SIGTERM comes."""
        while not self.ending and (
            self.kept or self.clients or any(subject.is_busy() for subject in self.subjects)
        ):
            self.turn(self.timers.timeout())
            self.timers.run()

    def end(self) -> None:
        """Leave `serve`, because SIGTERM has come."""
        self.ending = True

    def handle(self, client: socket, request: Request, fds: list[int]) -> None:
        """Handle one message."""
        if request["cmd"] == "keep":
            self.keep(request, fds)
        elif request["cmd"] == "settle":
            self.settle(client, request)
        elif request["cmd"] == "ended":
            self.ended(request, fds)
        elif request["cmd"] == "group":
            (self.runner.group,) = fds
        elif request["cmd"] == "allow":
            self.runner.allow(request["seconds"])
        elif request["cmd"] == "status":
            self.report(client)

    # -- servers

    def keep(self, request: Keep, fds: list[int]) -> None:
        """Keep a server, or go on by its new spec. One of this name that was kept before has ended."""
        name = request["name"]
        before = self.kept.get(name)
        again = before is not None and (before.pid, before.start) == (request["pid"], request["start"])
        if before and not again:
            self.finish(before)
        self.problems.pop(name, None)
        # recvmsg(2) has installed as many as there was room for; without room for clients we could not go on.
        if len(fds) < len(request["fds"]) or max(fds) >= self.highest_fd:
            close(*fds)
            self.problems[name] = f"keep it: {os.strerror(EMFILE)}"
            return
        named = dict(zip(request["fds"], fds, strict=True))
        try:
            spec = read_spec(named["spec"])
        except OSError as error:
            close(*fds)
            self.problems[name] = f"read its spec: {error.strerror or error}"
            return
        close(named.pop("spec"))
        if before and again:
            before.renew(named, spec)
            self.tell(before)
            return
        one = Kept(request, named, spec)
        ends.forget(one.home)
        if self.tell(one):
            self.kept[name] = one
            self.watch_exits()
            self.watch(one.pidfd, lambda: self.finish(one))

    def tell(self, one: Kept) -> bool:
        """Tell all subjects of a server, or of its new spec; False after an error, which is noted."""
        try:
            for subject in self.subjects:
                subject.kept(one)
        except OSError as error:
            self.problems[one.name] = error.strerror or str(error)
            if one.name not in self.kept:
                for subject in self.subjects:
                    subject.released(one)
                one.close()
            return False
        return True

    def settle(self, client: socket, request: Settle) -> None:
        """Copy what has been written, record what has ended, and answer."""
        name = request["name"]
        chosen = [one for one in self.kept.values() if name in (None, one.name)]
        ended = readable([one.pidfd for one in chosen], 0)
        for one in chosen:
            if one.pidfd in ended or one.is_ending():
                self.finish(one)
            else:
                for subject in self.subjects:
                    subject.settle(one)
        for subject in self.subjects:
            subject.review()
        settled: Settled = {"event": "settled", "kept": list(self.kept), "problems": self.all_problems()}
        self.send(client, settled)

    def all_problems(self) -> list[str]:
        """One line for each problem that lasts."""
        found = [f"Server/{server}: {why}" for server, why in self.problems.items()]
        for subject in self.subjects:
            found += subject.problems()
        return found + ([self.runner.problem] if self.runner.problem else [])

    def report(self, client: socket) -> None:
        """Answer what the keeper does at the moment."""
        status: Status = {
            "event": "status",
            "pid": os.getpid(),
            "since": self.since,
            "kept": list(self.kept),
            "acting": self.runner.pid,
            "acts": self.runner.count,
            "restarts": {},
            "snapshots": {},
            "problems": self.all_problems(),
        }
        for subject in self.subjects:
            status.update(subject.status())  # type: ignore[typeddict-item]
        self.send(client, status)

    def ended(self, request: Ended, fds: list[int]) -> None:
        """Tell all subjects of a server that has ended while there was no keeper."""
        try:
            if len(fds) == ENDED_FDS and request["name"] not in self.kept:
                one = Kept(request, {"folder": fds[0], "home": fds[1]}, read_spec(fds[2]))
                one.status = request["status"]
                for subject in self.subjects:
                    subject.ended(one)
        except OSError as error:
            self.problems[request["name"]] = error.strerror or str(error)
        close(*fds)

    def finish(self, one: Kept) -> None:
        """Record the exit of a server whose init has ended, with its last output copied, and release it."""
        for subject in self.subjects:
            subject.settle(one)
        try:
            one.oom = ends.oom_kills(one.counters) > one.kills
            one.status = ends.status(one.pidfd, one.pid, one.start)
            if one.status is None and self.exits:
                one.status = self.exits.take(one.pid)
            ends.record(one.home, one.status, one.oom)
        except OSError as error:
            self.problems[one.name] = f"record its exit: {error.strerror}"
        del self.kept[one.name]
        self.forget(one.pidfd)
        for subject in self.subjects:
            subject.ended(one)
        for subject in self.subjects:
            subject.released(one)
        one.close()
        self.watch_exits()

    def watch_exits(self) -> None:
        """Watch the exits of all inits, where pidfds do not keep their status."""
        if self.exits:
            self.exits.watch(tuple(one.pid for one in self.kept.values()))
