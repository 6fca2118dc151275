"""Volumes: directories for files that outlive servers. What plans them is loaded only if there are any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.model.values.units import format_bytes
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.kinds.planner import KindPlanner, Shown, register
from vsprov.plan.plan import Change


def plan(builder: PlanBuilder) -> None:
    """Add the changes of the wanted volumes, and the problems of servers that cannot mount theirs."""
    if not _concerned(builder):
        return
    from vsprov.plan.volumes import changes, mounts

    changes.plan(builder)
    mounts.check(builder)


def _concerned(builder: PlanBuilder) -> bool:
    """Whether the manifest or the instance has any volume, or a server is to mount one."""
    if builder.of("Volume") or builder.observed.more.get("Volume"):
        return True
    specs = (want.spec for want in builder.servers.values())
    return any(mount.type == "volume" for spec in specs if isinstance(spec, Server) for mount in spec.mounts)


def needs(want: Object) -> Iterable[str]:
    """The image that the files of a volume come from."""
    from vsprov.plan.volumes import changes

    return changes.needs(want)


def remove(builder: PlanBuilder, name: str) -> Change | None:
    """The change that removes a volume; `removals` has checked that no server uses it."""
    from vsprov.plan.volumes import changes

    return changes.remove(builder, name)


def show(name: str, from_: Shown, ignore: frozenset[str]) -> dict[str, Any]:
    """The spec that was last applied, with the limits of now."""
    from vsprov.plan.volumes import space

    seen = from_.observed.more["Volume"][name]
    return space.shown(seen.spec, seen.space)


def readable(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with its size in the notation of manifests: 64Mi."""
    return {**spec, "size": format_bytes(spec["size"])} if "size" in spec else dict(spec)


register(
    KindPlanner(
        "Volume",
        observed=lambda observed: observed.more.get("Volume", {}),
        owners=lambda seen: (seen.owner,),
        plan=plan,
        remove=remove,
        show=show,
        readable=readable,
        needs=needs,
    )
)
