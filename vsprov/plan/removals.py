"""Removals: the objects that destroy names, and with --prune objects of this set not in the manifest."""

from __future__ import annotations

from collections.abc import Container

from msgspec.structs import replace

from vsprov.model.suggest import did_you_mean
from vsprov.plan.builder import PROTECTED, UNPROTECT, PlanBuilder
from vsprov.plan.kinds.planner import PLANNERS, KindPlanner, ordered
from vsprov.plan.observed import is_of
from vsprov.plan.plan import Change

KEPT = "kept with its files; --volumes removes empty volumes, --delete-data NAME one with its files"


def plan(builder: PlanBuilder) -> None:
    """Add the removals: objects before those they refer to, servers before their dependencies."""
    removed: dict[str, Change] = {}
    used = users(builder)
    for planner in reversed(ordered()):
        for name, seen in planner.observed(builder.observed).items():
            if _is_removal(builder, planner, name, seen):
                address = f"{planner.kind}/{name}"
                remains = planner.shared and not all(map(builder.wanted.owns, planner.owners(seen)))
                if not remains and (used_by := sorted(used.get(address, ()))):
                    hint = "remove those objects first, or together with it"
                    builder.problem(address, f"cannot be removed: used by {', '.join(used_by)}", hint)
                elif not remains and planner.protected(seen):
                    builder.problem(
                        address, f"cannot be removed: it has the annotation {PROTECTED}", UNPROTECT
                    )
                elif change := planner.remove(builder, name):
                    removed[address] = change
    _refuse_unknown_data(builder, removed)
    after: dict[str, list[str]] = {address: [] for address in removed}
    remain: dict[str, list[str]] = {address: [] for address in removed}
    for planner in PLANNERS.values():
        for name, seen in planner.observed(builder.observed).items():
            for target in (*planner.holds(seen), *planner.follows(seen)):
                if target in after:
                    # A user that remains comes first as well: its change moves it to another image or pool.
                    after[target].append(f"{planner.kind}/{name}")
            for target in planner.follows(seen):
                if target in remain and f"{planner.kind}/{name}" not in removed:
                    remain[target].append(f"{planner.kind}/{name}")
    for address, change in removed.items():
        notes = tuple(f"{other} depends on it and remains" for other in remain[address])
        builder.add(address, replace(change, after=tuple(after[address]), notes=(*change.notes, *notes)))


def _refuse_unknown_data(builder: PlanBuilder, removed: Container[str]) -> None:
    """Add a problem for each name of a volume whose data is to be removed, but that is not removed."""
    known = PLANNERS["Volume"].observed(builder.observed)
    found = {problem.subject for problem in builder.problems}
    for name in sorted(builder.wanted.delete_data):
        address = f"Volume/{name}"
        if name not in known:
            builder.problem(address, f"--delete-data: no volume has this name{did_you_mean(name, known)}")
        elif address not in removed and address not in found:
            builder.problem(address, "--delete-data: this plan does not remove the volume")


def users(builder: PlanBuilder) -> dict[str, set[str]]:
    """{address: addresses of the objects that use it after the plan is applied}."""
    found: dict[str, set[str]] = {}
    for want in builder.wanted.objects:
        for target in PLANNERS[want.kind].needs(want):
            found.setdefault(target, set()).add(want.address)
    for planner in PLANNERS.values():
        wanted = builder.of(planner.kind)
        for name, seen in planner.observed(builder.observed).items():
            if name not in wanted and not _is_removed(builder, planner, name, seen):
                for target in planner.holds(seen):
                    found.setdefault(target, set()).add(f"{planner.kind}/{name}")
    return found


def _is_removed(builder: PlanBuilder, planner: KindPlanner, name: str, seen: object) -> bool:
    return builder.removes(planner.kind, name, _owner(builder, planner, seen))


def _owner(builder: PlanBuilder, planner: KindPlanner, seen: object) -> str | None:
    """The owner mark that decides whether an observed object is removed."""
    owners = planner.owners(seen)
    if planner.shared:
        owners = (*filter(builder.wanted.owns, owners), *owners)
    return owners[0] if owners else None


def _is_removal(builder: PlanBuilder, planner: KindPlanner, name: str, seen: object) -> bool:
    """Whether an observed object is removed.

    Objects of this set that are not in the manifest and not removed are added to `unlisted`.
    """
    kind, owner = planner.kind, _owner(builder, planner, seen)
    if name in builder.of(kind):
        return False
    if builder.keeps(kind, name) and builder.asks_to_remove(kind, name, owner):
        if builder.wanted.owns(owner):
            builder.note(f"{kind}/{name}", KEPT)
        return False
    if f"{kind}/{name}" in builder.wanted.remove:
        if planner.shared and is_of(owner, builder.wanted.instance) and not builder.wanted.owns(owner):
            return False  # this set has no part in it
        return not builder.refuse_foreign(f"{kind}/{name}", owner, f"{kind.lower()} {name}")
    whole = builder.wanted.objects and not builder.wanted.selected
    if whole and builder.wanted.owns(owner) and not builder.wanted.prune:
        builder.unlisted.append(f"{kind}/{name}")
    return builder.removes(kind, name, owner)
