"""What looking at a kind takes, and all kinds by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vsprov.kernel.cgroup import Hierarchies
from vsprov.plan.kinds.planner import Shown
from vsprov.store.instance import Instance


@dataclass(frozen=True, slots=True)
class View:
    """What documents are made from: where control groups are, and what was observed. `measure`: the instance
    whose servers' disk usage is wanted too, which takes a while to measure.
    """

    hierarchies: Hierarchies
    shown: Shown
    measure: Instance | None = None


def _no_metadata(seen: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class KindView:
    """How one kind is looked at.

    `status` is what `get -o json` shows of an object beside its spec, `metadata` its recorded labels and
    annotations. `observe` gives the objects of the kind by name, which are then in `Observed.more`; None for
    the kinds that are found with the control groups and images.
    """

    kind: str
    status: Callable[[str, View], dict[str, Any]]
    metadata: Callable[[Any], dict[str, Any]] = _no_metadata
    observe: Callable[[Instance, Hierarchies], Mapping[str, Any]] | None = None


VIEWS: dict[str, KindView] = {}


def register(view: KindView) -> None:
    """Add a kind's row."""
    VIEWS[view.kind] = view


def observe_more(instance: Instance, hierarchies: Hierarchies) -> dict[str, Mapping[str, Any]]:
    """{kind: {name: object}} of the kinds that observe themselves."""
    return {
        kind: view.observe(instance, hierarchies) for kind, view in VIEWS.items() if view.observe is not None
    }
