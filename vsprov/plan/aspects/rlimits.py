"""Resource limits (setrlimit(2)): attributes of each process, not files of a cgroup.

The observer returns the limits of the server's init, {name: (soft, hard)}; {} if it has just exited.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vsprov.model.kinds.server import Server
from vsprov.model.limits.knobs import RLIMITS, Knob
from vsprov.model.limits.resources import read_resources
from vsprov.model.values.units import MAX
from vsprov.plan.aspects.aspect import Aspect, Difference, Running, register
from vsprov.plan.observed import Machine
from vsprov.plan.plan import PathChange
from vsprov.plan.step import Step


class SetLimit(Step, frozen=True):
    """Set a resource limit of all processes of a running server; `before` is (soft, hard) of its init."""

    server: str
    limit: str
    soft: str
    hard: str
    before: tuple[str, str]

    def describe(self) -> str:
        return f"set {self.limit} of {self.server} to {self.soft}:{self.hard}"

    def undo(self) -> Step | None:
        return SetLimit(self.server, self.limit, *self.before, (self.soft, self.hard))


def compare(it: Running) -> Iterable[Difference]:
    """The limits that differ, among those that are set or recorded. A process may lower the others itself."""
    recorded = read_resources(it.recorded.get("resources", {}))
    for knob in RLIMITS:
        if knob.path in it.ignore or (knob.path not in it.spec.resources and knob.path not in recorded):
            continue
        default = it.machine.limits.get(knob.rlimit, (MAX, MAX))
        after = it.spec.resources.get(knob.path, default)
        before = it.seen.get(knob.rlimit, recorded.get(knob.path, default))
        if before != after:
            # Only CAP_SYS_RESOURCE can raise the hard limit of a running process; a new one starts with it.
            restart = bool(it.machine.ceilings) and above(after[1], before[1])
            yield _difference(it.name, knob, before, after, restart)


def _difference(
    server: str, knob: Knob, before: tuple[Any, Any], after: tuple[Any, Any], restart: bool
) -> Difference:
    kind = knob.kind
    path = PathChange(
        f"spec.resources.{knob.path}",
        kind.dump(before),
        kind.dump(after),
        "restart" if restart else "live",
        (kind.format(before), kind.format(after)),
    )
    (old_soft, old_hard), (soft, hard) = before, after
    step = SetLimit(server, knob.rlimit, str(soft), str(hard), (str(old_soft), str(old_hard)))
    return Difference(path, None if restart else step)


def show(spec: Mapping[str, Any], seen: Any, ignore: frozenset[str]) -> Mapping[str, Any]:
    """The spec with the current limits of init, for those limits that the spec sets."""
    written = dict(spec.get("resources", {}).get("rlimits", {}))
    for knob in RLIMITS:
        if knob.rlimit in written and knob.path not in ignore and knob.rlimit in seen:
            written[knob.rlimit] = knob.kind.dump(seen[knob.rlimit])
    return {**spec, "resources": {**spec["resources"], "rlimits": written}} if written else spec


def refuse(spec: Server, machine: Machine) -> Mapping[str, str]:
    """The hard limits that vsprov, without CAP_SYS_RESOURCE, cannot give to a server."""
    out = {}
    for knob in RLIMITS:
        ceiling = machine.ceilings.get(knob.rlimit)
        if (
            knob.path in spec.resources
            and ceiling is not None
            and above(spec.resources[knob.path][1], ceiling)
        ):
            hard = spec.resources[knob.path][1]
            out[knob.path] = f"hard limit {hard} exceeds {ceiling}, the highest that can be set here"
    return out


def notes(paths: Iterable[PathChange]) -> tuple[str, ...]:
    """Why changes that are usually live need a restart on this host."""
    costly = [path.path for path in paths if path.cost == "restart"]
    raised = [path.rpartition(".")[2] for path in costly if ".rlimits." in path]
    if not raised:
        return ()
    return (
        f"restart needed: raising the hard limit of {', '.join(raised)} of a running process requires "
        "CAP_SYS_RESOURCE, which vsprov does not have here",
    )


def above(a: Any, b: Any) -> bool:
    """Whether limit `a` allows more than `b`."""
    return b != MAX and (a == MAX or bool(a > b))


register(
    Aspect(
        "rlimits",
        ("resources.rlimits",),
        compare,
        show,
        refuse,
        "run vsprov with CAP_SYS_RESOURCE, or lower the limit",
        notes,
    )
)
