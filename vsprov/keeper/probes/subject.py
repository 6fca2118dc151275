"""Probes servers, and records on their home groups whether they are ready and healthy."""

from __future__ import annotations

import os
from errno import ENODEV, ESRCH
from time import time

from ..kept import Kept
from ..subjects.subject import Subject
from ..timers import uptime
from . import marks
from .client import Client
from .judge import Judge, check_of
from .notify import Reports, is_ready

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ..loop import Loop

SUBJECTS = ("readiness", "health")
AGAIN = 0.05  # seconds, when the prober has too many requests
AFTER_SHORTAGE = 1.0  # seconds until what could not be done for lack of something is tried again


class Probes(Subject):
    """The probes of all servers. `asked` are the probes under way, {id: (server, subject, judge)}."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.judges: dict[str, dict[str, Judge]] = {}  # by server
        self.asked: dict[int, tuple[Kept, str, Judge]] = {}
        self.reports: dict[str, Reports] = {}
        self.number = self.deaths = 0
        self.prober = Client(loop, self.answered, self.lost)
        self.problem = ""

    def kept(self, one: Kept) -> None:
        """Begin to probe a server. What an earlier keeper found out is still true."""
        before = self.judges.get(one.name, {})
        judges = {}
        for subject in SUBJECTS:
            spec = one.spec.get(subject)
            if spec is None:
                self.loop.timers.cancel((self, one.name, subject))
                continue
            known = marks.read(one, subject)
            judge = before.get(subject)
            if judge is None or known is None:
                judge = Judge(spec, *(known or (None, time(), uptime())))
                self.schedule(one, subject, judge)
            judges[subject] = judge
        if judges:
            self.judges[one.name] = judges
            marks.write(one, judges)
        else:
            self.judges.pop(one.name, None)
            marks.remove(one)
        self.listen(one)

    def released(self, one: Kept) -> None:
        """Stop to probe a server."""
        for subject in (*self.judges.pop(one.name, {}), "notify"):
            self.loop.timers.cancel((self, one.name, subject))
        if reports := self.reports.pop(one.name, None):
            reports.close()
        if not self.judges:
            self.prober.close()
            self.asked.clear()

    def listen(self, one: Kept) -> None:
        """Wait until a server reports that it is ready, if it is to, and has not done so already."""
        judge = self.judges.get(one.name, {}).get("readiness")
        waits = judge is not None and one.spec["readiness"]["notify"] and not judge.ok
        given = one.fds.pop("notify", -1)
        if judge is not None and waits and is_ready(one):  # read while there was no keeper
            waits = False
            self.take(one, "readiness", judge, "")
        if waits and one.name not in self.reports:
            self.receive_reports(one, given)
        elif given >= 0:
            os.close(given)
        if not waits and (reports := self.reports.pop(one.name, None)):
            reports.close()

    def receive_reports(self, one: Kept, given: int) -> None:
        """Begin to read the reports of a server, or try it again in a while."""
        judge = self.judges[one.name]["readiness"]
        try:
            self.reports[one.name] = Reports(self.loop, one, given, lambda ready: self.reported(one, ready))
        except OSError as error:
            if given >= 0:
                one.fds["notify"] = given
            elif error.errno == ESRCH:
                return  # the next command makes another socket
            why = f"read its reports: {error.strerror}"
            self.loop.timers.set((self, one.name, "notify"), AFTER_SHORTAGE, lambda: self.listen(one))
        else:
            why = ""
        if judge.unknown != bool(why):
            judge.unknown, judge.message = bool(why), why
            marks.write(one, self.judges[one.name])

    def reported(self, one: Kept, ready: bool) -> None:
        """A server is ready, or who has read its reports has died, and is followed by its spare."""
        del self.reports[one.name]
        if ready:
            self.take(one, "readiness", self.judges[one.name]["readiness"], "")
        else:
            self.loop.timers.set((self, one.name, "notify"), AFTER_SHORTAGE, lambda: self.listen(one))

    def take(self, one: Kept, subject: str, judge: Judge, message: str) -> None:
        """Judge a result, and record what has changed."""
        may_start = subject == "readiness"
        if judge.take(not message, message, time(), uptime(), may_start=may_start):
            marks.write(one, self.judges[one.name])
            for each in self.loop.subjects:
                each.changed(one)

    def problems(self) -> Iterable[str]:
        """That probes cannot be made."""
        return (f"probes: {self.problem}",) if self.problem else ()

    def schedule(self, one: Kept, subject: str, judge: Judge, seconds: float = 0.0) -> None:
        """Probe in so many seconds."""
        if check_of(one.spec[subject]):
            call = lambda: self.probe(one, subject, judge)  # noqa: E731
            self.loop.timers.set((self, one.name, subject), seconds, call)

    def probe(self, one: Kept, subject: str, judge: Judge) -> None:
        """Ask the prober."""
        spec = one.spec[subject]
        check = check_of(spec)
        self.number += 1
        request = {
            "id": self.number,
            "pid": one.pid,
            "start": one.start,
            "subject": subject,
            "check": check,
            "seconds": judge.timeout,
            **parameters(check, spec[check]),
        }
        try:
            if not self.prober.ask(request, *([one.fds["entry"]] if check == "exec" else ())):
                return self.schedule(one, subject, judge, AGAIN)
        except OSError as error:
            return self.not_made(one, subject, judge, f"run the prober: {error.strerror}")
        self.asked[self.number] = (one, subject, judge)

    def not_made(self, one: Kept, subject: str, judge: Judge, why: str) -> None:
        """A probe could not be made: say so, and try it again in a while."""
        self.problem = why
        if judge.take_none(why):
            marks.write(one, self.judges[one.name])
        self.schedule(one, subject, judge, AFTER_SHORTAGE)

    def answered(self, answer: dict[str, Any]) -> None:
        """Judge a result."""
        self.problem, self.deaths = "", 0
        one, subject, judge = self.asked.pop(answer["id"])
        if self.judges.get(one.name, {}).get(subject) is not judge:
            return  # the server has ended, or its spec has changed
        message = answer["message"]
        if not answer["made"]:
            return self.not_made(one, subject, judge, message)
        try:
            counts = not message or not is_frozen(one.home)
        except OSError as error:
            return self.not_made(one, subject, judge, f"see whether it is frozen: {error.strerror}")
        if counts:
            self.take(one, subject, judge, message)
            if subject == "health" and judge.ok is not None:  # each time: its policy may have changed
                for each in self.loop.subjects:
                    each.judged(one, healthy=judge.ok)
        self.schedule(one, subject, judge, judge.delay())

    def lost(self) -> None:
        """The prober has died: ask for what it has not answered again, in a while."""
        self.problem = "the prober has died"
        self.deaths += 1
        asked = list(self.asked.values())
        self.asked.clear()
        for one, subject, judge in asked:
            if self.judges.get(one.name, {}).get(subject) is not judge:
                continue
            if self.deaths > 1:  # it is more than a single accident
                self.not_made(one, subject, judge, self.problem)
            else:
                self.schedule(one, subject, judge, AFTER_SHORTAGE)


def parameters(check: str, given: Any) -> dict[str, Any]:
    """What a check needs to know, from the key of the probe."""
    if check == "exec":
        return {"argv": given}
    return {"path": given} if check == "file" else {"port": given["port"], **path(given)}


def path(given: dict[str, Any]) -> dict[str, Any]:
    """The path of an HTTP request."""
    return {"path": given["path"]} if "path" in given else {}


def is_frozen(home: int) -> bool:
    """Whether the processes of a server are frozen, and cannot answer."""
    try:
        fd = os.open("payload/cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=home)
    except FileNotFoundError:
        return False
    try:
        return b"frozen 1" in os.read(fd, 4096)
    except OSError as error:
        if error.errno != ENODEV:  # it was removed
            raise
        return False
    finally:
        os.close(fd)
