"""Resource limits of processes (setrlimit(2)): no files of a group but numbers of each process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vsprov.model.encodings import Group
from vsprov.model.knobs import RLIMITS, Knob
from vsprov.model.units import MAX
from vsprov.plan.observed import Machine, ObservedServer
from vsprov.plan.plan import PathChange
from vsprov.plan.steps import SetLimit


@dataclass(frozen=True, slots=True)
class LimitDifference:
    """A limit of a running server that differs; values are (soft, hard). `restart`: it cannot be set on a
    running process here, for raising a hard limit takes CAP_SYS_RESOURCE; one that is started anew can have
    it.
    """

    knob: Knob
    before: tuple[Any, Any]
    after: tuple[Any, Any]
    restart: bool

    def step(self, server: str) -> SetLimit:
        (old_soft, old_hard), (soft, hard) = self.before, self.after
        return SetLimit(server, self.knob.rlimit, str(soft), str(hard), (str(old_soft), str(old_hard)))


def compare(
    resources: Group, recorded: Group, seen: ObservedServer, machine: Machine, ignore: frozenset[str]
) -> tuple[LimitDifference, ...]:
    """The limits that differ, of those that are or were set: any other a process may lower as it likes."""
    out = []
    for knob in RLIMITS:
        if knob.path in ignore or (knob.path not in resources and knob.path not in recorded):
            continue
        default = machine.limits.get(knob.rlimit, (MAX, MAX))
        after = resources.get(knob.path, default)
        before = (seen.limits or {}).get(knob.rlimit, recorded.get(knob.path, default))
        if before != after:
            raises = bool(machine.ceilings) and above(after[1], before[1])
            out.append(LimitDifference(knob, before, after, raises))
    return tuple(out)


def notes(paths: Iterable[PathChange]) -> tuple[str, ...]:
    """Why some of a server's changes cost a restart that would be live elsewhere."""
    costly = [path.path for path in paths if path.cost == "restart"]
    raised = [path.rpartition(".")[2] for path in costly if ".rlimits." in path]
    if not raised:
        return ()
    return (
        f"to raise the hard limit of {', '.join(raised)} on a running process takes CAP_SYS_RESOURCE, which "
        "this vsprov lacks: so a restart",
    )


def refusals(resources: Group, machine: Machine) -> dict[str, str]:
    """{knob path: why this process may not give it to a server}, for want of CAP_SYS_RESOURCE."""
    out = {}
    for knob in RLIMITS:
        ceiling = machine.ceilings.get(knob.rlimit)
        if knob.path in resources and ceiling is not None and above(resources[knob.path][1], ceiling):
            hard = resources[knob.path][1]
            out[knob.path] = f"hard limit {hard} is above {ceiling}, the most that can be set here"
    return out


def above(a: Any, b: Any) -> bool:
    """Whether limit `a` allows more than `b`."""
    return b != MAX and (a == MAX or bool(a > b))
