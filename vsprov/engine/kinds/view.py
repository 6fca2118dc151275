"""The registry of kinds for observation and `get`: one `KindView` per kind."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from vsprov.kernel.cgroup import Hierarchies
from vsprov.store.instance import Instance

if TYPE_CHECKING:
    from vsprov.plan.kinds.planner import Shown
    from vsprov.plan.seen_disk import SeenDisk


class View(Struct, frozen=True):
    """The input of `KindView.status`: the cgroup hierarchies and the observed state.

    `unwatched` are the servers that a keeper should watch, and none does. `measure` is the instance if the
    disk usage of servers, which is slow to measure, is requested as well.
    """

    hierarchies: Hierarchies
    shown: Shown
    unwatched: Container[str] = ()
    measure: Instance | None = None


def not_enforced(resources: Iterable[str], view: View) -> list[dict[str, str]]:
    """[{"path", "reason"}] of the recorded limits that this host does not support."""
    from vsprov.plan.limits import groups

    lacking = groups.unsupported(resources, view.shown.machine)
    return [{"path": path, "reason": lack} for path, lack in lacking.items()]


READ_ONLY = "read-only after an I/O error: the disk of the host may be full"


def disk_of(disk: SeenDisk | None) -> dict[str, Any] | None:
    """What limits a server or a volume; None if nothing does. A damaged one has no numbers."""
    if disk is None:
        return None
    known = disk.counted and not disk.problem
    return {
        "backend": disk.backend,
        "spaceBytes": disk.space or None,
        "usedBytes": disk.used if known else None,
        "inodes": None if disk.problem else disk.all_inodes,
        "usedInodes": None if disk.problem else disk.used_inodes,
        "problem": disk.problem or (READ_ONLY if disk.read_only else ""),
    }


def _no_metadata(seen: Any) -> dict[str, Any]:
    return {}


class KindView(Struct, frozen=True):
    """How objects of one kind are observed and shown.

    `status` returns the status of an object in `get -o json`, `metadata` its recorded labels and annotations.
    `observe` returns the objects of the kind by name, which become `Observed.more[kind]`; it is None for the
    kinds that `engine.look.observe` finds in control groups and in the image store.
    """

    kind: str
    status: Callable[[str, View], dict[str, Any]]
    metadata: Callable[[Any], dict[str, Any]] = _no_metadata
    observe: Callable[[Instance, Hierarchies], Mapping[str, Any]] | None = None


VIEWS: dict[str, KindView] = {}


def register(view: KindView) -> None:
    """Register the view of a kind."""
    VIEWS[view.kind] = view


def observe_more(instance: Instance, hierarchies: Hierarchies) -> dict[str, Mapping[str, Any]]:
    """{kind: {name: object}} of the kinds that observe themselves."""
    return {
        kind: view.observe(instance, hierarchies) for kind, view in VIEWS.items() if view.observe is not None
    }
