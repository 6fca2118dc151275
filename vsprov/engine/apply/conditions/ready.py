"""Wait without the lock, after an apply or while the host starts, until servers are in a condition."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress

from vsprov.engine.apply.converge import perform, propose
from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.interrupted import explained
from vsprov.engine.apply.report import Report
from vsprov.engine.run import keeper
from vsprov.engine.run.waits import SECONDS_TO_NOTICE, Aim
from vsprov.engine.servers.watch import Seen, ServerWatch
from vsprov.engine.work import DEFAULT
from vsprov.errors import FailedError, VsprovError
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object, few
from vsprov.plan.builder import EVERY_SET, Wanted
from vsprov.plan.compare import applied
from vsprov.plan.observed import ObservedServer
from vsprov.plan.servers.conditions import (
    FAILED,
    GRACE,
    holds,
    hopeless,
    is_unknown,
    too_late,
)
from vsprov.store.instance import Instance

RETRY = 2.0  # seconds after which a keeper is looked for again, if another command keeps us from starting one
MOST_NAMED = 3


def wait(instance: Instance, wanted: Iterable[Object], seconds: float, report: Report) -> dict[str, str]:
    """Wait until all servers that are to run are ready. Returns {server: why it is not}."""
    names = [each.name for each in wanted if isinstance(each.spec, Server) and each.spec.state == "Running"]
    began, pending = time.monotonic(), dict.fromkeys(names)
    failures: dict[str, str] = {}

    def left() -> Iterator[str]:
        yield f"{few(pending)}: not ready yet; all changes were made"
        yield f"  hint: vsprov wait --for ready {' '.join(pending)}"

    with explained(left):
        for decided in decide(instance, {(name, "ready"): began for name in names}, seconds, report):
            for (name, _), why in decided.items():
                del pending[name]
                if why:
                    failures[name] = why
    return failures


def wait_for_dependencies(instance: Instance, seen: ObservedServer, seconds: float, report: Report) -> None:
    """Wait for the conditions in which a server starts, before it is restarted. FailedError if one fails."""
    if seen.init is None or seen.applied is None:
        return
    spec, now = applied.to_object(seen.name, seen.applied).spec, time.monotonic()
    assert isinstance(spec, Server)
    aims: dict[Aim, float] = {
        (one.name, one.condition): now for one in spec.depends_on if one.condition != "started"
    }
    with explained(lambda: [f"Server/{seen.name}: nothing was changed"]):
        for decided in decide(instance, aims, seconds, report):
            for (name, _), why in decided.items():
                if why:
                    raise FailedError(f"Server/{seen.name}: not restarted: Server/{name} {why}")


def decide(
    instance: Instance, aims: Mapping[Aim, float], seconds: float, report: Report
) -> Iterator[dict[Aim, str]]:
    """Yield {aim: "" if the server is in the condition, or why it does not get there} until all are decided.

    `aims` are with the times, on the monotonic clock, from which each is waited for, for so many `seconds`.
    """
    pending, since, noticed = dict(aims), time.monotonic(), False
    with closing(_Looks(instance, aims)) as looks, closing(_Keeper(instance)) as keeping:
        due: Iterable[str] = looks.conditions
        while pending:
            found = {aim: why for aim, why in looks.decided(due).items() if aim in pending}
            now, ends = time.monotonic(), min(pending.values()) + seconds
            if now >= ends:
                late = {aim for aim, began in pending.items() if now >= began + seconds} - found.keys()
                found |= {(name, what): too_late(looks.last[name], what, seconds) for name, what in late}
            for name, what in found:
                began = pending.pop((name, what))
                if noticed and not found[name, what]:
                    report.notice(f"Server/{name}: {what} ({now - began:.1f}s)")
            if found:
                yield found
                due = ()
                continue
            if not noticed and now >= since + SECONDS_TO_NOTICE:
                noticed = True
                for what in dict.fromkeys(what for _, what in pending):
                    names = [name for name, other in pending if other == what]
                    report.notice(f"waiting until {_listed(names)} {what}")
            times = (
                ends,
                math.inf if noticed else since + SECONDS_TO_NOTICE,
                looks.next_time(),
                keeping.retry,
            )
            due, gone = looks.changed(max(0.0, min(times) - now), keeping.fileno())
            if gone or time.monotonic() >= keeping.retry:
                keeping.revive(report)


class _Looks:
    """The servers as they were seen last, by name, and what follows from that."""

    def __init__(self, instance: Instance, aims: Iterable[Aim]) -> None:
        self.conditions: dict[str, list[str]] = {}  # to get into, by name
        for name, condition in aims:
            self.conditions.setdefault(name, []).append(condition)
        self.last: dict[str, Seen] = {}
        self._unknown: dict[str, float] = {}  # until when the keeper may record what becomes of a server
        self._watch = ServerWatch(instance, self.conditions)

    def close(self) -> None:
        self._watch.close()

    def changed(self, seconds: float, keeper: int) -> tuple[Iterable[str], bool]:
        """Wait, up to so many seconds; (names of the servers to look at, whether the keeper has died)."""
        now = time.monotonic()
        unknown = [name for name, until in self._unknown.items() if until > now]
        names, ready = self._watch.changed(seconds, keeper)
        return {*names, *unknown}, bool(ready)

    def next_time(self) -> float:
        """When to look again although nothing has changed, on the monotonic clock."""
        now = time.monotonic()
        return min((until for until in self._unknown.values() if until > now), default=math.inf)

    def decided(self, names: Iterable[str]) -> dict[Aim, str]:
        """Look at servers. {aim: "" if it is reached, or why it is not} of those of which that is known."""
        found: dict[Aim, str] = {}
        for name in names:
            self.last[name], settled = self._watch.look(name)
            if self._may_be_recorded(name) or not settled:
                continue
            for condition in self.conditions[name]:
                if holds(self.last[name], condition):
                    found[name, condition] = ""
                elif why := _why_not(self.last[name], condition):
                    found[name, condition] = f"{FAILED[condition]}: {why}"
        return found

    def _may_be_recorded(self, name: str) -> bool:
        """Whether the keeper may be about to record how a server has ended, or that it starts it again."""
        now = time.monotonic()
        if is_unknown(self.last[name]):
            return now < self._unknown.setdefault(name, now + GRACE)
        self._unknown.pop(name, None)
        return False


def _why_not(seen: Seen, condition: str) -> str:
    """Why a server cannot get into a condition any more; "" if it can: it runs, or will be restarted."""
    starts = seen is not None and seen.restarts is not None and seen.restarts.due
    return "" if starts else hopeless(seen, condition)


def _listed(names: Iterable[str]) -> str:
    listed = [f"Server/{name}" for name in names]
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return f"{', '.join(listed[:MOST_NAMED])}{more} {'is' if len(listed) == 1 else 'are'}"


class _Keeper:
    """Sees that there is a keeper, without which nobody would be found ready.

    `retry` is when to look for one again, on the monotonic clock, if there is none.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._connect()

    def _connect(self) -> None:
        self._keeper = keeper.connect(self._instance)
        self.retry = math.inf if self._keeper else time.monotonic() + RETRY

    def fileno(self) -> int:
        """Readable when the keeper has died; -1 if there is none."""
        return self._keeper.fileno() if self._keeper else -1

    def revive(self, report: Report) -> None:
        """Start another keeper if the last one has died, unless another command is about to do so."""
        if self._keeper is not None and not self._keeper.is_gone():
            return
        self.close()
        with suppress(VsprovError):
            _keep(self._instance, report)
        self._connect()

    def close(self) -> None:
        """End the connection."""
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None


def _keep(instance: Instance, report: Report) -> None:
    """See that there is a keeper that keeps all servers."""
    with exclusive(instance, DEFAULT, report):
        nothing = Wanted(instance.name, f"{instance.name}/{EVERY_SET}", selected=True)
        perform(instance, propose(instance, nothing), report)
