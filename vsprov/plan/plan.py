"""The plan: for each object what changes, what that costs, and the steps to carry out.

`reconcile` returns these frozen values: one change per object, or two if its steps are carried out in two
phases. `to_document` converts a plan to the JSON that is printed, saved and compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Container, Mapping
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from vsprov.errors import Problem
from vsprov.model.cost import Cost
from vsprov.model.values import digests
from vsprov.plan.step import Step

FORMAT_VERSION = "1.0"
Action = Literal["no-op", "create", "update", "replace", "delete"]


class PathChange(Struct, frozen=True):
    """One key that changes.

    `path` is dotted ("spec.resources.memory.max"). `shown` are both values as the plan prints them; if the
    first is "", the second says what changes ("+ 8080:80/tcp").
    """

    path: str
    before: Any
    after: Any
    cost: Cost
    shown: tuple[str, str] = ("", "")

    @property
    def pointer(self) -> str:
        """The path as a JSON pointer (RFC 6901)."""
        head, bracket, rest = self.path.partition("[")
        if bracket:  # one item of a keyed list
            key, _, leaf = rest.rpartition("]")
            parts = [*head.split("."), key, *leaf.split(".")[1:]]
        else:  # keys of labels and annotations contain dots
            parts = self.path.split(".", 2 if self.path.startswith("metadata.") else -1)
        return "/" + "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)


def change(path: str, before: Any, after: Any, cost: Cost) -> PathChange:
    """A `PathChange` whose values are formatted by `show`."""
    return PathChange(path, before, after, cost, (show(before), show(after)))


def show(value: Any) -> str:
    """A leaf of a spec as the plan prints it."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else str(value)


class Change(Struct, frozen=True):
    """The change of one object.

    `after` are the keys of the changes that must succeed first, and `follows` of those that come first even
    if they fail. `reason` is "missing", "drift", "changed" or "not in the manifest"; for `vsprov
    start`, `stop` and `restart` it is the verb. `notes` are remarks that do not prevent the plan from being
    applied. An object whose steps are carried out in phases has further changes, each with a `phase`.
    """

    kind: str
    name: str
    action: Action
    cost: Cost
    reason: str
    paths: tuple[PathChange, ...] = ()
    before: Mapping[str, Any] | None = None
    desired: Mapping[str, Any] | None = None
    steps: tuple[Step, ...] = ()
    after: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    phase: str = ""
    follows: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def key(self) -> str:
        """The unique name of the change in the plan: the address, with the phase if there is one."""
        return f"{self.address}#{self.phase}" if self.phase else self.address

    @property
    def of_manifest(self) -> bool:
        """Whether users see it as a change of an object: not the parent group, nor a second phase; what
        changes of the host itself, such as forwarding for networks, is shown.
        """
        return bool(self.paths) if self.kind == "Host" else not self.phase


def removal(
    kind: str, name: str, steps: tuple[Step, ...], before: Mapping[str, Any], cost: Cost = "none"
) -> Change:
    """The change that removes an object."""
    return Change(kind, name, "delete", cost, "not in the manifest", before=before, steps=steps)


class Plan(Struct, frozen=True):
    """All changes, in an order that respects their `after`. A plan with `problems` cannot be applied.

    `notes` are remarks by address, also on objects that do not change. `unchanged` and `unlisted` are
    addresses; unlisted objects belong to the set but are not in the manifest.
    """

    changes: tuple[Change, ...]
    problems: tuple[Problem, ...] = ()
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unchanged: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    inputs_digest: str = ""
    observed_digest: str = ""

    @property
    def empty(self) -> bool:
        return not self.changes

    def without(self, keys: Container[str]) -> Plan:
        """The plan without the changes that have these keys."""
        return replace(self, changes=tuple(change for change in self.changes if change.key not in keys))

    def unchanged_notes(self) -> dict[str, tuple[str, ...]]:
        """The notes on objects that do not change, by address."""
        changed = {change.address for change in self.changes}
        return {address: notes for address, notes in self.notes.items() if address not in changed}

    @property
    def objects(self) -> tuple[Change, ...]:
        """One change per object of the manifest, without changes of the parent group and second phases."""
        return tuple(change for change in self.changes if change.of_manifest)

    def summary(self) -> dict[str, int]:
        """The number of objects per action; `restart` counts the running servers that are restarted."""
        count = {"add": 0, "change": 0, "replace": 0, "destroy": 0, "restart": 0}
        words = {"create": "add", "update": "change", "replace": "replace", "delete": "destroy"}
        for change in self.objects:
            if change.action in words:
                count[words[change.action]] += 1
            count["restart"] += change.cost == "restart"
        return count


def to_document(plan: Plan, *, version: str, timestamp: str, host: str, owner_set: str) -> dict[str, Any]:
    """The plan as JSON, modelled on that of Terraform (schemas/plan.json)."""
    return {
        "format_version": FORMAT_VERSION,
        "vsprov_version": version,
        "timestamp": timestamp,
        "host": host,
        "set": owner_set,
        "inputs_digest": plan.inputs_digest,
        "observed_digest": plan.observed_digest,
        "resource_changes": [_change_document(change) for change in plan.objects],
        "unchanged": list(plan.unchanged),
        "unlisted": list(plan.unlisted),
        "notes": {address: list(notes) for address, notes in plan.unchanged_notes().items()},
        "problems": [
            {"subject": p.subject, "path": p.path, "message": p.message, "hint": p.hint}
            for p in plan.problems
        ],
        "summary": plan.summary(),
    }


def _change_document(change: Change) -> dict[str, Any]:
    actions = ["delete", "create"] if change.action == "replace" else [change.action]
    return {
        "address": change.address,
        "kind": change.kind,
        "name": change.name,
        "change": {
            "actions": actions,
            "before": change.before,
            "after": change.desired,
            "replace_paths": [path.pointer for path in change.paths if path.cost == "recreate"],
        },
        "disruption": change.cost,
        "paths": [
            {"path": path.pointer, "before": path.before, "after": path.after, "disruption": path.cost}
            for path in change.paths
        ],
        "action_reason": change.reason,
        "depends_on": list(change.after),
        "notes": list(change.notes),
        "steps": [step.to_json() for step in change.steps],
    }


def digest(value: Any) -> str:
    """The sha256 digest of a value as canonical JSON; records become objects, without their FIGURES, and sets
    sorted lists.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return digests.full(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest())


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        figures = getattr(value, "FIGURES", ())
        return {name: each for name, each in asdict(value).items() if name not in figures}
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)  # type: ignore[arg-type]
    return sorted(value) if isinstance(value, frozenset | set) else dict(value)
