"""What differs between a server as wanted and as it is, key by key, for people and for the cost of it.

Limits, the hostname and the state are judged by what the kernel shows; everything else by the record of what
was applied, for a command line or a mount table inside a server is the server's own to change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vsprov.model import digests
from vsprov.model.cost import Cost, cost_of
from vsprov.model.knobs import BY_PATH
from vsprov.model.objects import Server
from vsprov.model.units import format_bytes
from vsprov.plan import diff
from vsprov.plan.groups import GroupDelta
from vsprov.plan.limits import LimitDifference
from vsprov.plan.observed import Machine, ObservedGroup, ObservedServer
from vsprov.plan.plan import PathChange


@dataclass(frozen=True, slots=True)
class Comparison:
    """A wanted server beside the observed one. `record` and `text` are what will be recorded of it; `here` is
    its group if that is where it should be; `delta` what the group's files lack.
    """

    spec: Server
    record: Mapping[str, Any]
    text: str
    seen: ObservedServer
    here: ObservedGroup | None
    delta: GroupDelta
    limits: tuple[LimitDifference, ...]
    machine: Machine

    def paths(self) -> tuple[PathChange, ...]:
        """Every key that differs. A server that does not run cannot be disturbed, so then nothing costs."""
        out = [*self._recorded(), *self._kernel(), *self._standing()]
        if not out and (self.seen.mark != self.text or self.seen.disk != self.text):
            whole = self.seen.mark is not None and self.seen.disk is not None
            out.append(
                change("status.mark", "outdated" if whole else "edited or missing", "restored", "live")
            )
        if self.seen.init and self.spec.state == "Running":
            return tuple(out)
        return tuple(replace(path, cost="none") if path.cost != "recreate" else path for path in out)

    def _recorded(self) -> Iterable[PathChange]:
        before = self.seen.applied
        if before is None:
            yield change("spec", "unknown: its record is lost or was edited", "as in the manifest", "restart")
            return
        for path, old, new in diff.differences(before["spec"], self.record["spec"]):
            row = diff.row_of(path)
            if row not in ("state", "image") and not self._is_shown(row):
                said = (_show_knob(row, old), _show_knob(row, new))
                yield PathChange(f"spec.{path}", old, new, cost_of(Server, row), said)
        for key in ("labels", "annotations"):
            for path, old, new in diff.differences({key: before[key]}, {key: self.record[key]}):
                yield change(f"metadata.{path}", old, new, "live")
        old, new = _image(before, digests.full), _image(self.record, digests.full)
        if old != new:
            shown = (_image(before, digests.short), _image(self.record, digests.short))
            yield PathChange("spec.image", old, new, cost_of(Server, "image"), shown)

    def _is_shown(self, row: str) -> bool:
        """Whether the kernel shows the key of this server; any other is known by the record only."""
        if row == "hostname":
            return self.seen.hostname is not None
        head, _, path = row.partition(".")
        knob = BY_PATH.get(".".join(path.split(".")[:2])) if head == "resources" else None
        if knob is None:
            return False
        return self.seen.init is not None if knob.rlimit else bool(self.here and self.machine.side(knob))

    def _kernel(self) -> Iterable[PathChange]:
        if self.here:
            yield from resource_changes(self.delta)
        for limit in self.limits:
            kind, path = limit.knob.kind, f"spec.resources.{limit.knob.path}"
            shown = (kind.format(limit.before), kind.format(limit.after))
            cost: Cost = "restart" if limit.restart else "live"
            yield PathChange(path, kind.dump(limit.before), kind.dump(limit.after), cost, shown)
        if self.seen.state != self.spec.state:
            yield change("spec.state", self.seen.state, self.spec.state, "none")
        if self.seen.hostname is not None and self.seen.hostname != self.spec.hostname:
            yield change("spec.hostname", self.seen.hostname, self.spec.hostname, cost_of(Server, "hostname"))

    def _standing(self) -> Iterable[PathChange]:
        """What is missing or out of its place of the things a server consists of."""
        if self.seen.group is None:
            yield change("status.cgroup", "missing", "present", "none")
        if self.here and self.delta.make and not self.delta.differences:  # a limit that needs it tells enough
            yield change("status.cgroup", f"missing in {', '.join(self.delta.make)}", "present", "live")
        if self.seen.populated and not self.seen.init:
            yield change("status.processes", "some, without an init", "none", "none")
        if not self.seen.directory:
            yield change("status.directory", "missing", "present", "restart")
        if self.seen.strays:
            outside = ", ".join(name or "cgroup2" for name in self.seen.strays)
            yield change("status.cgroup", f"init is outside it ({outside})", "init is in it", "live")


def resource_changes(delta: GroupDelta, prefix: str = "spec.resources") -> Iterable[PathChange]:
    """The knobs whose values differ; not those whose file only has to be written for the first time."""
    for difference in delta.differences:
        kind, values = difference.knob.kind, (difference.before, difference.after)
        before, after = ("default" if value is None else kind.format(value) for value in values)
        if before != after:
            raw = [None if value is None else kind.dump(value) for value in values]
            yield PathChange(f"{prefix}.{difference.knob.path}", raw[0], raw[1], "live", (before, after))


def change(path: str, before: Any, after: Any, cost: Cost) -> PathChange:
    return PathChange(path, before, after, cost, (show(before), show(after)))


def show(value: Any) -> str:
    """A leaf of a spec as people read it."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else str(value)


def _image(record: Mapping[str, Any], form: Callable[[str], str]) -> str:
    """What a server runs on: the name of its image, and the digest in this form."""
    return f"{record['spec']['image']}@{form(record['image'])}"


def _show_knob(row: str, value: Any) -> str:
    """A leaf of a record; quantities are kept there as plain numbers."""
    if row == "mounts.size" and value is not None:
        return format_bytes(value)
    knob = BY_PATH.get(row.removeprefix("resources."))
    return knob.kind.format(knob.kind.parse(value)) if knob and value is not None else show(value)
