"""What is removed: objects a destroy names, and with --prune those of this set that the manifest lacks."""

from __future__ import annotations

from dataclasses import replace

from vsprov.plan.builder import PlanBuilder
from vsprov.plan.kinds.planner import PLANNERS, KindPlanner, ordered
from vsprov.plan.plan import Change


def plan(builder: PlanBuilder) -> None:
    """Objects go before what they refer to, and servers before the servers they depend on."""
    gone: dict[str, Change] = {}
    for planner in reversed(ordered()):
        for name, seen in planner.observed(builder.observed).items():
            if _goes(builder, planner, name, planner.owners(seen)):
                address = f"{planner.kind}/{name}"
                if left := users(builder, address):
                    builder.problem(address, f"cannot be removed: used by {', '.join(left)}")
                elif change := planner.remove(builder, name):
                    gone[address] = change
    after: dict[str, list[str]] = {address: [] for address in gone}
    for planner in PLANNERS.values():
        for name, seen in planner.observed(builder.observed).items():
            for target in (*planner.holds(seen), *planner.follows(seen)):
                if target in after:
                    # One that stays is changed first: it moves to another image or pool.
                    after[target].append(f"{planner.kind}/{name}")
    for address, change in gone.items():
        builder.add(address, replace(change, after=tuple(after[address])))


def users(builder: PlanBuilder, address: str) -> list[str]:
    """The addresses of the objects that need another one once the plan is done."""
    found = {want.address for want in builder.wanted.objects if address in PLANNERS[want.kind].needs(want)}
    for planner in PLANNERS.values():
        for name, seen in planner.observed(builder.observed).items():
            stays = name not in builder.of(planner.kind) and not _is_removed(builder, planner, name, seen)
            if stays and address in planner.holds(seen):
                found.add(f"{planner.kind}/{name}")
    return sorted(found)


def _is_removed(builder: PlanBuilder, planner: KindPlanner, name: str, seen: object) -> bool:
    owners = planner.owners(seen)
    return builder.removes(planner.kind, name, owners[0] if owners else None)


def _goes(builder: PlanBuilder, planner: KindPlanner, name: str, owners: tuple[str | None, ...]) -> bool:
    """Whether an observed object is removed; one of this set that stays although the manifest lacks it is
    noted.
    """
    kind, owner = planner.kind, owners[0] if owners else None
    if name in builder.of(kind):
        return False
    if f"{kind}/{name}" in builder.wanted.remove:
        return not builder.refuse_foreign(f"{kind}/{name}", owner, f"{kind.lower()} {name}")
    whole = builder.wanted.objects and not builder.wanted.selected
    if whole and builder.wanted.owns(owner) and not builder.wanted.prune:
        builder.unlisted.append(f"{kind}/{name}")
    return builder.removes(kind, name, owner)
