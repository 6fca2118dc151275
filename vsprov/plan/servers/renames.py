"""Servers that get another name, and keep their files, ids and addresses: `metadata.renamedFrom`.

A control group of cgroup2 cannot be renamed, so a running server is stopped, and started under its new name.
For the rest of the plan a server to be renamed has its new name already, and no group.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from vsprov.errors import Problem
from vsprov.model.cost import Cost, highest
from vsprov.model.objects import Object
from vsprov.plan.builder import PlanBuilder, Wanted
from vsprov.plan.compare import applied
from vsprov.plan.observed import Observed, ObservedServer, is_of, set_of
from vsprov.plan.plan import Change, PathChange, change
from vsprov.plan.steps import (
    MakeGroup,
    RemoveGroup,
    RenameDirectory,
    Spawn,
    Step,
    WriteApplied,
    WriteMark,
)

FORMERLY = "formerly"  # in the record of a renamed server: the name that its MAC addresses are made from
NAME = "metadata.name"


class Renames(Struct, frozen=True):
    """The servers to rename as they are observed, by their new names, and `observed` with the new names."""

    observed: Observed
    servers: Mapping[str, ObservedServer] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def carry_over(wanted: Wanted, observed: Observed) -> Renames:
    """The servers that are to get other names. One that has got its new name already is none of them."""
    asked = [one for one in wanted.objects if one.renamed_from is not None and one.kind == "Server"]
    if not asked:
        return Renames(observed)
    servers, found = dict(observed.servers), {}
    problems: list[Problem] = []
    for want in asked:
        old = observed.servers.get(want.renamed_from or "")
        if old is None or not old.directory:
            continue
        refused = list(_refusals(wanted, observed, want, old))
        problems += refused
        if not refused:
            found[want.name] = old
            del servers[old.name]
            servers[want.name] = _moved(old, want.name)
    return Renames(replace(observed, servers=servers), found, tuple(problems))


def _refusals(wanted: Wanted, observed: Observed, want: Object, old: ObservedServer) -> Iterator[Problem]:
    path = "metadata.renamedFrom"
    new = observed.servers.get(want.name)
    if new is not None:
        message = f"both {old.name} and {want.name} exist, so {old.name} cannot be renamed"
        hint = f"remove the key, or delete one of them, such as: vsprov delete server {old.name}"
        yield Problem(message, None, path, want.address, hint)
    elif not all(is_of(owner, wanted.instance) for owner in old.owners()):
        yield Problem(f"server {old.name} was not created by vsprov", None, path, want.address)
    elif not wanted.owns(old.set_owner):
        hint = f"apply to set {set_of(old.set_owner)}"
        yield Problem(f"server {old.name} belongs to {old.set_owner}", None, path, want.address, hint)


def _moved(old: ObservedServer, name: str) -> ObservedServer:
    """A server as it will be once it has stopped and its directory has its new name."""
    return replace(
        old, name=name, group=None, applied=_with_first_name(old), init=None, strays=(), populated=False,
        live={}, mark=None, detached=(), restarts=None, hooks_due=False,
    )  # fmt: skip


def adapt(builder: PlanBuilder, want: Object, made: Change, stop: Step, runs: bool) -> Change:
    """The change of a server with what renames it first; the same change for any other server.

    `stop` stops it under its old name; `runs` is whether it is to run.
    """
    old = builder.renamed.get(want.name)
    if old is None:
        return made
    cost: Cost = "restart" if old.init and runs else "none"
    hidden = {"status.cgroup", *(("spec.state",) if old.init else ())}
    paths = [change(NAME, old.name, want.name, cost)]
    paths += [change("spec.state", old.state, "Stopped", "none")] if old.init and not runs else []
    paths += [path for path in made.paths if path.path not in hidden]
    steps = (*_before(builder, old, want.name, stop), *made.steps, *_ended(old, made))
    spec = old.applied["spec"] if old.applied else {}
    return replace(
        made,
        cost=highest([cost, made.cost]),
        reason="changed",
        paths=tuple(_costing(paths, cost)),
        before={**spec, "state": old.wanted_state},
        steps=steps,
    )


def _costing(paths: list[PathChange], cost: Cost) -> Iterator[PathChange]:
    """The changes; those of a server that is restarted for its name are made with that."""
    for path in paths:
        yield replace(path, cost=cost) if path.cost == "none" and path.path != "spec.state" else path


def _before(builder: PlanBuilder, old: ObservedServer, name: str, stop: Step) -> list[Step]:
    steps: list[Step] = []
    hooks = _hooks(old)
    if old.init or old.populated:
        steps += hooks.before_stop(old) if hooks else ()
        steps.append(stop)
    if builder.networks is not None:
        from vsprov.plan.network.changes import servers

        steps += servers.after_rename(builder.wanted.instance, builder.networks, old.name)
    steps += hooks.after_stop(old) if hooks else ()
    if old.group:
        steps.append(RemoveGroup(old.group.path))
    return [*steps, *_remember(old), RenameDirectory(old.name, name)]


def _remember(old: ObservedServer) -> Iterator[Step]:
    """The step that records the first name, before a crash can leave the directory with the new one alone."""
    record = _with_first_name(old)
    if record is not None and record != old.applied:
        yield WriteApplied(old.name, applied.to_text(record), old.disk or "")


def _with_first_name(old: ObservedServer) -> Mapping[str, Any] | None:
    """The record of a server, which has its first name if it has interfaces."""
    record = old.applied
    if record is not None and record["spec"].get("interfaces"):
        return {**record, FORMERLY: record.get(FORMERLY, old.name)}
    return record


def _hooks(old: ObservedServer) -> ModuleType | None:
    """The module that plans hooks; it is loaded only if the server has some."""
    if not old.hooks_due and not (old.applied and old.applied["spec"].get("hooks")):
        return None
    from vsprov.plan.servers import hooks

    return hooks


def _ended(old: ObservedServer, made: Change) -> list[Step]:
    """The marks of a server that has ended by itself, and does not start now: its new group has them too."""
    last = old.last_exit
    if not old.ended or last is None or any(isinstance(step, Spawn) for step in made.steps):
        return []
    groups = [step.group for step in made.steps if isinstance(step, MakeGroup) and not step.hierarchy]
    seen: dict[str, Any] = {"code": last.code, "signal": last.signal, "oom": last.oom, "at": last.at}
    marks = {"init": "renamed", "exit": json.dumps(seen)}
    return [WriteMark(group, name, text) for group in groups for name, text in marks.items()]
