"""Wait until servers are in a state, without polling."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from msgspec import Struct

from vsprov.engine.look import last_exit
from vsprov.engine.run import keeper
from vsprov.engine.servers.watch import Seen, ServerWatch
from vsprov.engine.show import processes
from vsprov.errors import FailedError
from vsprov.model.suggest import not_found
from vsprov.plan.observed import FROZEN
from vsprov.store.instance import Instance


class State(Struct, frozen=True):
    """A state to wait for. `final`: a server that is removed meanwhile can never reach it."""

    doc: str
    holds: Callable[[Seen], bool]
    final: bool = True


def _has_ended(seen: Seen) -> bool:
    return seen is not None and seen.init is None and not seen.populated


def _runs(seen: Seen) -> bool:
    return seen is not None and seen.init is not None


def _is_frozen(seen: Seen) -> bool:
    return seen is not None and seen.state == FROZEN


def _is_healthy(seen: Seen) -> bool | None:
    return seen.health.ok if seen is not None and seen.health is not None else None


STATES: Mapping[str, State] = {
    "running": State("pid 1 runs, and is not frozen", lambda seen: _runs(seen) and not _is_frozen(seen)),
    "ready": State(
        "it is ready: by its readiness probe, or it runs and has none, or it was meant to end and has",
        lambda seen: seen is not None and seen.is_ready,
    ),
    "healthy": State("its health probe succeeds", lambda seen: _is_healthy(seen) is True),
    "unhealthy": State("its health probe fails", lambda seen: _is_healthy(seen) is False),
    "frozen": State("the server is frozen", _is_frozen),
    "stopped": State("nothing of it runs, whether it was stopped or has ended by itself", _has_ended),
    "exited": State(
        "it has ended by itself", lambda seen: _has_ended(seen) and seen is not None and seen.ended
    ),
    "deleted": State("the server is removed", lambda seen: seen is None, final=False),
}


class Reached(Struct, frozen=True):
    """A server that is in the state. `seen` is None if it does not exist (any more)."""

    name: str
    seen: Seen

    @property
    def last_exit(self) -> dict[str, Any] | None:
        """How it ended, as `get -o json` shows it."""
        return last_exit.document(self.seen.last_exit) if self.seen else None


class WaitError(FailedError):
    """The servers that have not reached the state in time, as they were `seen` last."""

    def __init__(self, timeout: float, seen: Mapping[str, Seen]) -> None:
        self.seen = seen
        super().__init__(_timed_out(timeout, seen))


def wait(instance: Instance, names: Sequence[str], state: State, timeout: float | None) -> Iterator[Reached]:
    """Yield each of the servers as soon as it is in the state.

    FailedError for a server that does not exist and one that is removed, WaitError after `timeout` seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    pending, last = dict.fromkeys(names), dict[str, Seen]()
    with closing(ServerWatch(instance, names)) as watch:
        due: Collection[str] = names
        while pending:
            for name in [name for name in due if name in pending]:
                last[name], settled = watch.look(name)
                seen = last[name]
                if settled and state.holds(seen):
                    del pending[name]
                    yield Reached(name, _with_exit(instance, watch, name, seen))
                elif settled and seen is None and state.final:
                    raise not_found("Server", name, processes.servers(instance))
            left = None if deadline is None else deadline - time.monotonic()
            if pending and left is not None and left <= 0:
                raise WaitError(timeout or 0, {name: last[name] for name in pending})
            due = sorted(watch.changed(left)[0]) if pending else ()


def _timed_out(timeout: float, left: Mapping[str, Seen]) -> str:
    shown = [f"Server/{name} is {seen.state if seen else 'deleted'}" for name, seen in left.items()]
    more = f" and {len(shown) - 3} others are not there either" if len(shown) > 3 else ""
    return f"wait: timed out after {timeout:g} s: {', '.join(shown[:3])}{more}"


def _with_exit(instance: Instance, watch: ServerWatch, name: str, seen: Seen) -> Seen:
    """The server with its exit, which the keeper may be about to record."""
    if seen is None or seen.init or not seen.ended or seen.last_exit:
        return seen
    if keeping := keeper.connect(instance):
        with closing(keeping), suppress(keeper.KeeperGone):
            keeping.settle(name)
    return watch.look(name)[0]  # also if there is no keeper: it may have recorded the last exit, and left
