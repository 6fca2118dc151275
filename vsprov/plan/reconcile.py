"""What is wanted against what was observed: the plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vsprov.model import digests, fields
from vsprov.model.objects import Image, Object, Quota, Server
from vsprov.plan import diff, differences, groups, limits, pools, removals, servers
from vsprov.plan.draft import Draft
from vsprov.plan.draft import Wanted as Wanted
from vsprov.plan.observed import Machine, Observed
from vsprov.plan.plan import Action, Change, PathChange, Plan
from vsprov.plan.steps import ImportImage, MakeGroup, RemoveGroup, Step, WriteFile


def reconcile(wanted: Wanted, observed: Observed, machine: Machine) -> Plan:
    """The plan that turns what was observed into what is wanted.

    Whatever stands against it is in its `problems`, all of it.
    """
    draft = Draft(wanted, observed, machine)
    for want in wanted.objects:
        if want.kind == "Image":
            _image(draft, want)
    weights = pools.admit(draft)
    for want in draft.pools.values():
        pools.plan(draft, want, weights[want.address])
    for want in draft.servers.values():
        _server(draft, want, weights[want.address])
    removals.plan(draft)
    _parent(draft)
    return Plan(
        _one_by_one(_in_order(draft.changes)),
        tuple(draft.problems),
        draft.notes,
        tuple(draft.unchanged),
        tuple(draft.unlisted),
    )


def _image(draft: Draft, want: Object) -> None:
    seen, digest = draft.observed.images.get(want.name), draft.wanted.digests[want.name]
    if seen and draft.foreign(want.address, seen.owner, f"image {want.name}"):
        return
    spec = fields.write(want.spec)
    assert isinstance(want.spec, Image)
    build = want.spec.source.build
    steps, after = (ImportImage(want.name),), (f"Image/{build.from_}",) if build else ()
    if seen is None:
        draft.add(
            want.address,
            Change("Image", want.name, "create", "none", "missing", desired=spec, steps=steps, after=after),
        )
    elif seen.digest == digest and seen.spec == spec:
        draft.add(want.address, None)
    else:
        before = dict(seen.spec)
        paths = [
            differences.change(f"spec.{path}", old, new, "none")
            for path, old, new in diff.differences(before, spec)
        ]
        if seen.digest != digest:
            shown = (digests.short(seen.digest) or "broken", digests.short(digest))
            change = (digests.full(seen.digest), digests.full(digest))
            paths.append(PathChange("spec.source", *change, "none", shown))
        draft.add(
            want.address,
            Change("Image", want.name, "update", "none", "changed", tuple(paths), before, spec, steps, after),
        )


def _server(draft: Draft, want: Object, weight: int) -> None:
    spec = want.spec
    assert isinstance(spec, Server)
    seen = draft.observed.servers.get(want.name)
    if want.name in draft.observed.pools and f"Quota/{want.name}" not in draft.wanted.remove:
        draft.problem(want.address, f"a pool {want.name} exists; pools and servers share one parent group")
        return
    if seen and seen.group and draft.foreign(want.address, seen.group.owner, f"cgroup {seen.group.path}"):
        return
    if seen and seen.directory and draft.foreign(want.address, seen.owner, f"the directory of {want.name}"):
        return
    draft.note_lacking(want)
    too_high = limits.refusals(spec.resources, draft.machine)
    draft.refuse(want, too_high, "run vsprov with CAP_SYS_RESOURCE, or lower the limit")
    pool = _pool_resources(draft, want)
    draft.refuse(want, groups.refusals(spec.resources, pool, draft.machine))
    context = servers.Context(
        draft.wanted.instance,
        draft.wanted.owner,
        draft.machine,
        _image_digest(draft, want),
        weight,
        pool,
        draft.observed.defaults,
    )
    change, needed = servers.reconcile(want, seen, context, draft.notes.get(want.address, ()))
    draft.needed |= needed
    draft.populated = True
    if change:
        first = [f"Image/{spec.image}", *(f"Server/{dependency.name}" for dependency in spec.depends_on)]
        if spec.quota:
            first.append(f"Quota/{spec.quota}")
        notes = (*change.notes, *limits.notes(change.paths))
        change = replace(change, after=tuple(first), notes=notes)
    draft.add(want.address, change)


def _image_digest(draft: Draft, server: Object) -> str:
    assert isinstance(server.spec, Server)
    name = server.spec.image
    if name in draft.wanted.digests:
        return draft.wanted.digests[name]
    if name in draft.observed.images:
        return draft.observed.images[name].digest
    draft.problem(
        server.address, f"image {name} is neither in the manifest nor in the store", path="spec.image"
    )
    return ""


def _pool_resources(draft: Draft, server: Object) -> Mapping[str, object]:
    assert isinstance(server.spec, Server)
    name = server.spec.quota
    if name is None:
        return {}
    if name in draft.pools:
        spec = draft.pools[name].spec
        assert isinstance(spec, Quota)
        return spec.resources
    if name in draft.observed.pools:
        return pools.resources_of(draft.observed.pools[name])
    draft.problem(
        server.address, f"pool {name} is neither in the manifest nor on this host", path="spec.quota"
    )
    return {}


def _parent(draft: Draft) -> None:
    """Make the group above all servers in every hierarchy that is needed; remove it with the last of them."""
    parent, instance = draft.observed.parent, draft.wanted.instance
    if not draft.populated:
        if parent and parent.owner is not None:
            after = tuple(draft.changes)
            steps = (RemoveGroup(instance),)
            change = Change("Host", instance, "delete", "none", "empty", steps=steps, after=after)
            draft.add(change.address, change)
        return
    if parent and parent.owner is None:
        hint = "choose another --instance, or remove it"
        draft.problem("Host", f"cgroup {instance} exists and does not carry our mark", hint)
        return
    needed = _parent_steps(draft)
    if needed:
        missing = any(not isinstance(step, WriteFile) for step in needed)
        action: Action = "update" if parent else "create"
        reason = "missing" if missing else "drift"
        change = Change("Host", instance, action, "none", reason, steps=tuple(needed))
        others = draft.changes
        draft.changes = {change.key: change}
        for key, other in others.items():
            waits = other.action != "delete"
            draft.changes[key] = replace(other, after=(change.key, *other.after)) if waits else other


def _parent_steps(draft: Draft) -> list[Step]:
    """The group above all limits nothing, and v1 wants its CPUs set before anything can be below it."""
    parent, instance, machine = draft.observed.parent, draft.wanted.instance, draft.machine
    delta = groups.compare({}, parent, machine, also=frozenset(draft.needed))
    steps: list[Step] = [*draft.pass_down("", delta.needed, draft.observed.subtree)]
    steps += [MakeGroup(name, instance, "host", f"{instance}/") for name in delta.make]
    steps += groups.file_writes(instance, delta, machine, parent=True)
    steps += draft.pass_down(instance, delta.needed, parent.subtree if parent else frozenset())
    return steps


def _one_by_one(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """The changes in their order, where running servers that another digest of their image restarts wait for
    each other: should one not come up again, the rest still run.
    """
    last: dict[str, str] = {}
    out = []
    for change in changes:
        moved = any(path.path == "spec.image" and path.cost == "restart" for path in change.paths)
        if moved and change.desired is not None:
            image = change.desired["image"]
            if image in last and last[image] not in change.after:
                change = replace(change, after=(*change.after, last[image]))
            last[image] = change.key
        out.append(change)
    return tuple(out)


def _in_order(changes: Mapping[str, Change]) -> tuple[Change, ...]:
    """The changes, each after those it waits for; what does not change is dropped from `after`.

    So is what closes a circle: servers that were applied one by one may each have been told to follow the
    other, and have to be removable all the same.
    """
    waits = {
        key: dict.fromkeys(name for name in change.after if name in changes)
        for key, change in changes.items()
    }
    out: dict[str, Change] = {}
    for start in changes:
        # No recursion: servers may depend on each other in a chain longer than Python's stack.
        way = {start: None} if start not in out else {}
        while way:
            key = next(reversed(way))
            ahead = next((name for name in waits[key] if name not in out), None)
            if ahead is None:
                del way[key]
                out[key] = replace(changes[key], after=tuple(waits[key]))
            elif ahead in way:
                del waits[key][ahead]
            else:
                way[ahead] = None
    return tuple(out.values())
