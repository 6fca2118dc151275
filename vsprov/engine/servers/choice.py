"""Which servers a command is about, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from vsprov.engine.desired.choice import Choice
from vsprov.errors import FailedError, VsprovError
from vsprov.plan.observed import Observed, ObservedServer, Process


class Acted(Struct):
    """The addresses of servers with which it was `done`, or that had `already` been in the wanted state, and
    {address: error} of the others.
    """

    done: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    errors: dict[str, VsprovError] = field(default_factory=dict)


class RunningServer(Struct, frozen=True):
    """A server that runs: its init, and the path of its group below the root of every hierarchy."""

    name: str
    init: Process
    group: str
    live: Mapping[str, object]

    @property
    def address(self) -> str:
        return f"Server/{self.name}"


def running(choice: Choice, observed: Observed, instance: str, acted: Acted) -> Iterator[RunningServer]:
    """The chosen servers that run. One that was chosen by its name and does not run is an error in `acted`;
    others that do not run are left out. FailedError, before the first, for an unknown name.
    """
    for seen in dict.fromkeys(one.name for one in choice.of(observed, instance)):
        found = _running(observed.servers[seen])
        if found is not None:
            yield found
        elif seen in choice.names:
            hint = f"vsprov start {seen}"
            acted.errors[f"Server/{seen}"] = FailedError(f"Server/{seen}: is not running", hint=hint)


def _running(seen: ObservedServer) -> RunningServer | None:
    if seen.init is None or seen.group is None:
        return None
    return RunningServer(seen.name, seen.init, seen.group.path, seen.live)
