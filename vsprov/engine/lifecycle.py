"""Starting, stopping and restarting servers as they were last applied, and removing all of an instance.

What a server should be is not changed, so a server that was stopped here is drift in the next plan. It starts
on its image as the store now has it, and that is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vsprov.engine.apply import converge
from vsprov.engine.apply.converge import Draft, Outcome, Report
from vsprov.engine.look import situation
from vsprov.engine.look.observe import refuse_foreign
from vsprov.engine.look.situation import Situation
from vsprov.errors import FailedError
from vsprov.model.objects import Object, Server
from vsprov.model.suggest import not_found
from vsprov.plan import applied, removals
from vsprov.plan.observed import Observed, ObservedServer, is_of
from vsprov.plan.plan import Change, Plan
from vsprov.plan.reconcile import Wanted, reconcile
from vsprov.plan.servers import applied_mark, is_ephemeral, stop_step
from vsprov.plan.steps import DiscardUpper, MarkInit, Release, RemoveGroup, Spawn, Step, WriteApplied
from vsprov.store.instance import Instance

Action = Literal["start", "stop", "restart"]


@dataclass(frozen=True, slots=True)
class Changed:
    """How it went: `outcome` of the servers that had to change, names of those `already` as asked for."""

    outcome: Outcome
    already: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which servers are meant: these names, those whose labels are selected, or all."""

    names: tuple[str, ...] = ()
    selected: Callable[[Mapping[str, str]], bool] | None = None
    everything: bool = False

    def of(self, observed: Observed, instance: str) -> list[ObservedServer]:
        """Those of this instance, each once. FailedError for a name that none of them has."""
        for name in self.names:
            if name not in observed.servers:
                raise not_found("Server", name, observed.servers)
            refuse_foreign(observed.servers[name], instance)
        found = [observed.servers[name] for name in dict.fromkeys(self.names)]
        for seen in observed.servers.values():
            chosen = self.everything or (
                self.selected and seen.applied and self.selected(seen.applied["labels"])
            )
            if chosen and all(is_of(owner, instance) for owner in seen.owners()):
                found.append(seen)
        return found


def change_state(
    instance: Instance,
    action: Action,
    choice: Choice,
    report: Report,
    *,
    timeout: int | None = None,
    parallelism: int = converge.PARALLELISM,
    lock_timeout: float = 0.0,
) -> Changed:
    """Start, stop or restart the servers; those that are so already are left alone. `timeout`, in
    microseconds, replaces each server's own time to end. Raises FailedError for a server that cannot be
    started as it is, before any is touched.
    """
    with converge.alone(instance, lock_timeout, report):
        now = situation.look(instance)
        chosen = choice.of(now.observed, instance.name)
        already = tuple(seen.name for seen in chosen if _is_so(action, seen))
        chosen = [seen for seen in chosen if seen.name not in already]
        wanted = Wanted(
            instance.name, "", () if action == "stop" else tuple(_recorded(seen) for seen in chosen)
        )
        draft = Draft(_plan(action, chosen, wanted, now, timeout), wanted, now)
        return Changed(converge.perform(instance, draft, report, parallelism=parallelism), already)


def _is_so(action: Action, seen: ObservedServer) -> bool:
    if action == "stop":
        return not (seen.init or seen.populated)
    return action == "start" and seen.init is not None


def _recorded(seen: ObservedServer) -> Object:
    """The server as it was last applied, to be running."""
    if seen.applied is None:
        raise FailedError(
            f"Server/{seen.name}: start: its record is lost or was edited, so what it should run is unknown",
            hint="apply its manifest",
        )
    found = applied.to_object(seen.name, seen.applied)
    assert isinstance(found.spec, Server)
    return replace(found, spec=replace(found.spec, state="Running"))


def _plan(
    action: Action,
    chosen: Sequence[ObservedServer],
    wanted: Wanted,
    now: Situation,
    timeout: int | None,
) -> Plan:
    changes: dict[str, Change] = {}
    for seen in chosen:
        write, mark = _image_record(seen, now.observed) if action != "stop" else ([], [])
        steps: list[Step] = [*write]  # before the stop, for the disk may be full
        if seen.init or seen.populated:
            stop = stop_step(seen, now.observed.defaults)
            steps.append(stop if timeout is None else replace(stop, timeout=timeout))
        if action == "stop":
            steps += [DiscardUpper(seen.name)] if is_ephemeral(seen) else []
        else:
            if seen.group is None or not seen.directory:
                # After a reboot the groups are gone: all of the server has to be made again.
                changes.update(_made_again(seen, wanted, now))
                continue
            steps += mark
            if is_ephemeral(seen):
                steps.append(DiscardUpper(seen.name))
            steps += [Spawn(seen.name), MarkInit(seen.name), Release(seen.name)]
        address = f"Server/{seen.name}"
        changes[address] = Change("Server", seen.name, "update", "none", action, steps=tuple(steps))
    waits = _order(action, chosen)
    ordered = [replace(change, after=(*change.after, *waits.get(key, ()))) for key, change in changes.items()]
    return Plan(tuple(ordered))


def _image_record(seen: ObservedServer, observed: Observed) -> tuple[list[Step], list[Step]]:
    """What records on disk, and on the group, that the server will run on its image as that now is."""
    image = observed.images.get(seen.applied["spec"]["image"]) if seen.applied else None
    if seen.applied is None or seen.group is None or image is None or image.digest == seen.applied["image"]:
        return [], []
    text = applied.to_text({**seen.applied, "image": image.digest})
    return [WriteApplied(seen.name, text, seen.disk or "")], [applied_mark(seen.group.path, text)]


def _made_again(seen: ObservedServer, wanted: Wanted, now: Situation) -> dict[str, Change]:
    address = f"Server/{seen.name}"
    owner = seen.owner or (seen.group.owner if seen.group else None) or ""
    objects = tuple(one for one in wanted.objects if one.address == address)
    plan = reconcile(replace(wanted, owner=owner, objects=objects), now.observed, now.machine)
    converge.refuse_problems(plan)
    return {
        change.key: replace(change, reason="start") if change.kind == "Server" else change
        for change in plan.changes
    }


def _order(action: Action, chosen: Sequence[ObservedServer]) -> dict[str, tuple[str, ...]]:
    """{address: those that come first}: a server starts after what it depends on, and stops before it."""
    names = {seen.name for seen in chosen}
    after: dict[str, list[str]] = {}
    for seen in chosen:
        for dependency in (seen.applied or {"spec": {}})["spec"].get("dependsOn", ()):
            if dependency["name"] in names:
                first, second = (
                    (seen.name, dependency["name"]) if action == "stop" else (dependency["name"], seen.name)
                )
                after.setdefault(f"Server/{second}", []).append(f"Server/{first}")
    return {address: tuple(first) for address, first in after.items()}


# -- everything


def destroy_all(
    instance: Instance,
    report: Report,
    *,
    approve: Callable[[Draft], bool] = lambda draft: True,
    parallelism: int = converge.PARALLELISM,
    lock_timeout: float = 0.0,
) -> Outcome:
    """Remove all that bears this instance's mark, of whichever set, and what is left of the instance."""
    with converge.alone(instance, lock_timeout, report):
        now = situation.look(instance)
        observed = as_one_set(now.observed, instance)
        owner = f"{instance.name}/*"
        remove = frozenset(_removable(observed, owner, report))
        wanted = Wanted(instance.name, owner, remove=remove)
        plan = reconcile(wanted, observed, now.machine)
        if (
            plan.empty
            and observed.parent
            and observed.parent.owner
            and not (observed.servers or observed.pools)
        ):
            steps = (RemoveGroup(instance.name),)
            plan = replace(
                plan, changes=(Change("Host", instance.name, "delete", "none", "empty", steps=steps),)
            )
        draft = Draft(plan, wanted, replace(now, observed=observed))
        return converge.perform(instance, draft, report, approve=approve, parallelism=parallelism)


def as_one_set(observed: Observed, instance: Instance) -> Observed:
    """What was observed, where every owner of this instance is the set "*"."""

    def one(owner: str | None) -> str | None:
        return f"{instance.name}/*" if is_of(owner, instance.name) else owner

    def server(seen: ObservedServer) -> ObservedServer:
        group = replace(seen.group, owner=one(seen.group.owner)) if seen.group else None
        return replace(seen, owner=one(seen.owner), group=group)

    return replace(
        observed,
        servers={name: server(seen) for name, seen in observed.servers.items()},
        pools={name: replace(pool, owner=one(pool.owner)) for name, pool in observed.pools.items()},
        images={name: replace(image, owner=one(image.owner)) for name, image in observed.images.items()},
    )


def _removable(observed: Observed, owner: str, report: Report) -> Iterable[str]:
    """The addresses of all that is this owner's, but for what a server needs that is not and so stays."""
    kept: set[str] = set()
    for seen in observed.servers.values():
        if all(one == owner for one in seen.owners()):
            yield f"Server/{seen.name}"
        else:
            report.notice(f"Server/{seen.name}: left alone: some of it does not carry our mark")
            kept.update(removals.needs(seen))
    others = [f"Quota/{name}" for name, pool in observed.pools.items() if pool.owner == owner]
    others += [f"Image/{name}" for name, image in observed.images.items() if image.owner == owner]
    for address in others:
        if address in kept:
            report.notice(f"{address}: left alone: a server that stays needs it")
        else:
            yield address
