"""Whether a running server was started for its repair (`vsprov start --rescue`): it is to run its own init.

The observer returns whether that is so. It is no key of the spec, but shown as a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vsprov.plan.aspects.aspect import Aspect, Difference, Running, register
from vsprov.plan.observed import RESCUE, RESCUED
from vsprov.plan.plan import change


def compare(it: Running) -> Iterable[Difference]:
    """The state, if the server should run as usual, which takes a restart."""
    if it.seen and it.spec.state == "Running":
        yield Difference(change("spec.state", RESCUED, "Running", "restart"), None)


def show(spec: Mapping[str, Any], seen: Any, ignore: frozenset[str]) -> Mapping[str, Any]:
    """The spec as it is, which has no key for it."""
    return spec


register(Aspect(RESCUE, (), compare, show))
