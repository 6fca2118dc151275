"""The firewall after a change has failed: what the servers need that run then, and nothing else.

An apply first lets pass what all its servers need, and takes away what no server needs in the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from vsprov.engine.apply import execute
from vsprov.engine.look import situation
from vsprov.engine.look.situation import Situation
from vsprov.engine.run.context import ApplyContext
from vsprov.errors import VsprovError
from vsprov.plan.builder import EVERY_SET, PlanBuilder, Wanted
from vsprov.plan.network import naming, ruleset
from vsprov.plan.network.changes import host
from vsprov.plan.network.desired.compute import compute
from vsprov.plan.network.state import SeenNetworks
from vsprov.plan.network.steps import ChangeFirewall, SetSysctl
from vsprov.plan.plan import Change, Plan
from vsprov.plan.reconcile import reconcile
from vsprov.plan.steps import Step


def admission(context: ApplyContext, now: Situation) -> ChangeFirewall:
    """The step that lets pass what the wanted servers need, one of which is about to start as it was."""
    seen = now.observed.networks
    assert seen is not None
    name = context.instance.name
    wanted = Wanted(name, f"{name}/{EVERY_SET}", tuple(context.wanted.values()))
    tables = compute(PlanBuilder(wanted, now.observed, now.machine)).wanted.tables
    widen, undo, _, why = ruleset.changes(tables, seen.tables)
    return ChangeFirewall(json.dumps(widen), json.dumps(undo), "; ".join(why))


def settle(context: ApplyContext, failed: Plan, errors: Iterable[VsprovError]) -> None:
    """Make the firewall, and what else is global to all networks, as the servers need it that run now.

    `errors` are those of the plan; what fails for the same reason is not reported again.
    """
    known = "\n".join(map(str, errors))
    name = context.instance.name
    try:
        now = situation.look(context.instance)
    except (OSError, VsprovError) as error:
        context.notice(f"after the failure: observe the networks: {error}")
        return
    seen = now.observed.networks
    if seen is None:
        return
    plan = reconcile(Wanted(name, f"{name}/{EVERY_SET}"), now.observed, now.machine)
    steps = [step for change in plan.changes for step in change.steps if _is_of_networks(change)]
    for step in (*steps, *_unrecorded(name, seen, failed)):
        try:
            for _ in execute.do(context, step):
                pass
        except VsprovError as error:
            if str(error) not in known:
                context.notice(f"after the failure: {error}")


def _is_of_networks(change: Change) -> bool:
    """Whether a change is of what is global. Servers outside the manifest wait for the next apply."""
    return change.kind == "Host" and change.phase in (host.PHASE, host.POOLS, host.NAMES, host.NARROW)


def _unrecorded(instance: str, seen: SeenNetworks, failed: Plan) -> list[Step]:
    """The steps that restore sysctls of the host if no network is left that has recorded what they were."""
    owners = {naming.owner_of(link.alias)[0] for link in seen.links.values()}
    if seen.networks or owners - {"", instance}:
        return []
    done = [
        step
        for change in failed.changes
        for step in change.steps
        if isinstance(step, SetSysctl)
        and _is_of_networks(change)
        and seen.sysctls.get(step.path) == step.value
    ]
    return [SetSysctl(step.path, step.before, step.value) for step in done]
