"""The mounts of a running server. Volumes are compared with what the kernel has mounted, and are mounted and
unmounted while the server runs; other mounts are compared with the record, and take a restart.

The observer returns the volumes that are mounted, as a tuple of `MountedVolume`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vsprov.model import fields
from vsprov.model.kinds.server import Server
from vsprov.model.traits import cost_of
from vsprov.plan.aspects.aspect import Aspect, Difference, Running, register
from vsprov.plan.compare import diff
from vsprov.plan.plan import PathChange, change
from vsprov.plan.step import Step

MOUNTS = "mounts"
NOT_MOUNTED = "not mounted"
_READ_ONLY, _USED_BY = " (read-only)", ", used by "


@dataclass(frozen=True, slots=True)
class MountedVolume:
    """A volume that is mounted in a server at the path `target`, which leads to `place`, if that is known.

    `used_by` is a process that uses it, "" if none does or nobody has looked.
    """

    target: str
    volume: str
    read_only: bool = False
    place: str = field(default="", compare=False)
    used_by: str = field(default="", compare=False)

    @property
    def point(self) -> str:
        """Where it is mounted, without links."""
        return self.place or self.target

    def __str__(self) -> str:
        return f"volume {self.volume}{_READ_ONLY if self.read_only else ''}"


class ChangeVolume(Step, frozen=True):
    """Mount, unmount or replace a volume at a path of a running server, or make it read-only or writable.

    `before` is what is mounted there now and `after` what is to be: volume and "ro" or "rw"; () for nothing.
    """

    server: str
    target: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    def describe(self) -> str:
        if not self.after:
            return f"unmount volume {self.before[0]} from {self.target} of {self.server}"
        return f"mount volume {self.after[0]} at {self.target} of {self.server} ({self.after[1]})"

    def undo(self) -> Step | None:
        return ChangeVolume(self.server, self.target, self.after, self.before)


def compare(it: Running) -> Iterable[Difference]:
    """The volumes that differ from what is mounted, and other mounts that differ from the record."""
    recorded: Mapping[str, Any] = {one["target"]: one for one in it.recorded.get("mounts", ())}
    wanted: Mapping[str, Any] = {one.target: fields.write(one) for one in it.spec.mounts}
    if not recorded and not wanted:
        return
    old_ones, new_ones = (
        {"mounts": [one for one in each.values() if one["type"] != "volume"]} for each in (recorded, wanted)
    )
    for path, old, new in diff.differences(old_ones, new_ones):
        cost = cost_of(Server, diff.row_of(path))
        yield Difference(PathChange(f"spec.{path}", old, new, cost, diff.shown(path, old, new)), None)
    yield from _volumes(it, recorded, wanted)


def _volumes(it: Running, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[Difference]:
    seen = {one.target: one for one in it.seen}
    before, after = _mounted(recorded), _mounted(wanted)
    for target in sorted({*before, *after, *seen}):
        was, now, found = before.get(target), after.get(target), seen.get(target)
        if was == now == found:
            continue
        if found != now:
            live = not it.spec.security.read_only_root or now is None or found is not None
            live &= not any(_is_below(other, target) for other in {*recorded, *wanted})
            live &= (target in before or target not in recorded) and (target in after or target not in wanted)
            live &= not (found and found.used_by) and not (now and now.read_only and may_mount(it.spec))
            step = ChangeVolume(it.name, target, _state(found), _state(now)) if live else None
            yield Difference(_path(target, found or _missing(was), now, live), step)
        else:
            yield Difference(_path(target, was, now, True), None)  # it was renamed, or an apply interrupted


def may_mount(spec: Server) -> bool:
    """Whether the root of a server could make a mount writable again, unless the server has started with it:
    mount_namespaces(7), "Restrictions on mount namespaces".
    """
    return "SYS_ADMIN" in spec.security.kept(spec.init.style)


def _mounted(mounts: Mapping[str, Any]) -> dict[str, MountedVolume]:
    return {
        target: MountedVolume(target, one["source"], bool(one.get("readOnly")))
        for target, one in mounts.items()
        if one["type"] == "volume"
    }


def _missing(was: MountedVolume | None) -> str | None:
    return NOT_MOUNTED if was else None


def _state(one: MountedVolume | None) -> tuple[str, ...]:
    return (one.volume, "ro" if one.read_only else "rw") if one else ()


def _path(
    target: str, before: MountedVolume | str | None, after: MountedVolume | None, live: bool
) -> PathChange:
    old, new = (str(one) if one else None for one in (before, after))
    if isinstance(before, MountedVolume) and before.used_by:
        old = f"{old}{_USED_BY}{before.used_by}"
    return change(f"spec.mounts[{target}]", old, new, "live" if live else "restart")


def _is_below(path: str, other: str) -> bool:
    return path.startswith(f"{other.rstrip('/')}/")


def show(spec: Mapping[str, Any], seen: Any, ignore: frozenset[str]) -> Mapping[str, Any]:
    """The spec with the volumes that are mounted."""
    if not any(one["type"] == "volume" for one in spec.get("mounts", ())):
        return spec
    found = {one.target: one for one in seen}
    mounts = []
    for one in spec["mounts"]:
        if one["type"] != "volume":
            mounts.append(one)
        elif now := found.get(one["target"]):
            mounts.append({**one, "source": now.volume, "readOnly": now.read_only})
    return {**spec, "mounts": mounts}


def notes(paths: Iterable[PathChange]) -> tuple[str, ...]:
    """Why a change takes a restart."""
    restarts = [each for each in paths if each.path.startswith(f"spec.{MOUNTS}[") and each.cost == "restart"]
    found = []
    if any(_USED_BY in str(each.before) for each in restarts):
        found.append("a volume that a process uses cannot be unmounted")
    if any(_USED_BY not in str(each.before) and str(each.after).endswith(_READ_ONLY) for each in restarts):
        found.append("a server with SYS_ADMIN could make what is mounted while it runs writable again")
    return tuple(f"restart needed: {why}" for why in found)


register(Aspect(MOUNTS, ("mounts",), compare, show, notes=notes))
