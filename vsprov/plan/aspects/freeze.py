"""The freezer of a running server (cgroup.freeze): a server that should be running is not frozen.

The observer returns whether its processes are frozen. It is no key of the spec, but shown as a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vsprov.plan.aspects.aspect import Aspect, Difference, Running, register
from vsprov.plan.observed import FREEZE, FROZEN
from vsprov.plan.plan import change
from vsprov.plan.step import Step


class Thaw(Step, frozen=True):
    """Thaw the processes of a running server, and the groups that it is in."""

    server: str

    def describe(self) -> str:
        return f"thaw {self.server}"


def compare(it: Running) -> Iterable[Difference]:
    """The state, if the running server is frozen."""
    if it.seen:
        yield Difference(change("spec.state", FROZEN, "Running", "live"), Thaw(it.name))


def show(spec: Mapping[str, Any], seen: Any, ignore: frozenset[str]) -> Mapping[str, Any]:
    """The spec as it is, which has no key for the freezer."""
    return spec


register(Aspect(FREEZE, (), compare, show))
