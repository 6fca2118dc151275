"""Whatever is wanted and whatever there is: after a plan is done, the next one is empty."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.effort import examples
from tests.unit import simulate
from tests.unit.simulate import World
from tests.unit.wishes import MACHINES, changed_a_little, drift, wanteds
from vsprov.model import fields
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.plan.builder import Wanted
from vsprov.plan.compare import diff
from vsprov.plan.limits.disk import DiskLimit
from vsprov.plan.observed import Machine
from vsprov.plan.plan import Plan
from vsprov.plan.reconcile import reconcile
from vsprov.plan.steps import MakeGroup, MoveProcesses, Step, WriteApplied, WriteMark

few = settings(
    examples(20),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
on_each_machine = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)


def plan_of(wanted: Wanted, world: World) -> Plan:
    plan = reconcile(wanted, world.observe(wanted), world.machine)
    assert not plan.problems, [str(problem) for problem in plan.problems]
    return plan


def converge(wanted: Wanted, world: World) -> Plan:
    """Do the plan, and check that there is nothing left to do."""
    plan = plan_of(wanted, world)
    simulate.apply(plan, wanted, world)
    left = plan_of(wanted, world)
    assert left.empty, shown(left)
    return plan


def shown(plan: Plan) -> Any:
    return [
        (c.key, c.action, [(p.path, p.shown) for p in c.paths], [s.describe() for s in c.steps])
        for c in plan.changes
    ]


def leaves_no_one_too_large(wanted: Wanted, world: World) -> bool:
    """A pool that is narrowed below a server that stays in it is refused, and rightly."""
    return not reconcile(wanted, world.observe(wanted), world.machine).problems


@on_each_machine
@few
@given(data=st.data())
def test_the_plan_after_a_plan_is_empty(machine: Machine, data: st.DataObject) -> None:
    world = World(machine)
    converge(data.draw(wanteds(machine)), world)
    second = data.draw(wanteds(machine))
    assume(leaves_no_one_too_large(second, world))
    converge(second, world)


@on_each_machine
@few
@given(data=st.data())
def test_what_happened_meanwhile_is_repaired(machine: Machine, data: st.DataObject) -> None:
    world = World(machine)
    wanted = data.draw(wanteds(machine))
    converge(wanted, world)
    drift(data.draw, world)
    if data.draw(st.booleans()):
        wanted = data.draw(wanteds(machine))
        assume(leaves_no_one_too_large(wanted, world))
    converge(wanted, world)


@on_each_machine
@few
@given(data=st.data())
def test_an_apply_that_dies_is_made_good_by_the_next(machine: Machine, data: st.DataObject) -> None:
    world = World(machine)
    converge(data.draw(wanteds(machine)), world)
    drift(data.draw, world, most=1)
    dying = data.draw(wanteds(machine))
    assume(leaves_no_one_too_large(dying, world))
    plan = plan_of(dying, world)
    simulate.apply(plan, dying, world, data.draw(st.integers(0, sum(len(c.steps) for c in plan.changes))))
    next_one = data.draw(st.one_of(st.just(dying), wanteds(machine)))
    assume(leaves_no_one_too_large(next_one, world))
    converge(next_one, world)


@on_each_machine
@few
@given(data=st.data())
def test_after_everything_is_removed_nothing_is_left(machine: Machine, data: st.DataObject) -> None:
    world = World(machine)
    for _ in range(2):
        wanted = data.draw(wanteds(machine))
        assume(leaves_no_one_too_large(wanted, world))
        plan = plan_of(wanted, world)
        simulate.apply(plan, wanted, world, data.draw(st.integers(-1, 40)))
        drift(data.draw, world, most=1)
    seen = world.observe()
    every = (
        {f"Server/{n}" for n in seen.servers}
        | {f"Quota/{n}" for n in seen.pools}
        | {f"Image/{n}" for n in seen.images}
        | ({f"Network/{n}" for n in seen.networks.networks} if seen.networks else set())
    )
    converge(Wanted(wanted.instance, wanted.owner, remove=frozenset(every)), world)
    assert (world.guests, world.directories, world.images) == ({}, {}, {})
    assert {group for _, group in world.files} == {""}
    assert world.networks.observe(False) is None


@on_each_machine
@few
@given(data=st.data())
def test_what_another_set_made_is_not_touched(machine: Machine, data: st.DataObject) -> None:
    world = World(machine)
    converge(replace(data.draw(wanteds(machine, "vsprov/other", "xyz")), prune=False), world)
    mine = {"a", "b", "c", "a-p", "a-q", "a-i", "a-j"}

    def others() -> Any:
        groups = {key: files for key, files in world.files.items() if not mine & set(key[1].split("/"))}
        return (
            # Another server may be the first to need a controller; then its files are shown in all groups.
            [(key, sorted(files.items())) for key, files in groups.items() if key[0] and "/" in key[1]],
            [item for item in sorted(world.guests.items()) if item[0] not in mine],
            [item for item in sorted(world.directories.items()) if item[0] not in mine],
            [item for item in sorted(world.images.items()) if item[0] not in mine],
            [item for item in sorted(world.marks.items()) if not mine & set(item[0].split("/"))],
        )

    before = repr(others())
    for _ in range(2):
        wanted = replace(data.draw(wanteds(machine)), prune=True)
        converge(wanted, world)
        assert repr(others()) == before
    converge(replace(wanted, objects=(), digests={}), world)
    assert repr(others()) == before
    assert not mine & {part for _, group in world.files for part in group.split("/")}


# What may change in a running server without starting it anew.
LIVE = (
    "interfaces",
    "ports",
    "dns",
    "firewall",
    "resources",
    "hostname",
    "init.stopSignal",
    "init.stopTimeout",
    "dependsOn",
    "state",
)


def on_host(wanted: Wanted, server: Server) -> bool:
    hosts = {one.name for one in wanted.objects if isinstance(one.spec, Network) and one.spec.type == "host"}
    return any(interface.network in hosts for interface in server.interfaces)


def limits_of(wanted: Wanted, server: Server) -> tuple[int | None, bool]:
    """(the limit of what a server writes, if it has one of its own, whether it shares that of its pool)."""
    own = DiskLimit.of(server.resources)
    pools = {one.name: one.spec.resources for one in wanted.objects if isinstance(one.spec, Quota)}
    return own.space if own else None, DiskLimit.of(pools.get(server.quota or "", {})) is not None


def disk_forces(machine: Machine, limits: list[tuple[int | None, bool]]) -> bool:
    """Whether another disk is needed, or an image cannot change while it is mounted."""
    (old, was_shared), (new, is_shared) = limits
    gets_one = not (old or was_shared) and bool(new or is_shared)
    if not machine.disks["qgroup"]:
        return gets_one
    if not machine.disks["project"]:
        return gets_one or (bool(new or is_shared) and was_shared != is_shared)
    grows, shrinks = (new or 0) > (old or 0), (new or 0) < (old or 0)
    return bool(old) != bool(new) or shrinks or (grows and bool(machine.ceilings))


@on_each_machine
@few
@given(data=st.data())
def test_a_server_is_started_anew_exactly_when_something_forces_it(
    machine: Machine, data: st.DataObject
) -> None:
    world = World(machine)
    first = data.draw(wanteds(machine))
    converge(first, world)
    before = {name: guest.pid for name, guest in world.guests.items()}
    second = data.draw(st.one_of(changed_a_little(first, machine), wanteds(machine)))
    assume(leaves_no_one_too_large(second, world))
    plan = converge(second, world)
    old, new = ({one.name: one for one in w.objects if isinstance(one.spec, Server)} for w in (first, second))
    costs = {change.name: change.cost for change in plan.objects if change.kind == "Server"}
    for name in before.keys() & new.keys():
        was, is_now = old[name].spec, new[name].spec
        assert isinstance(was, Server) and isinstance(is_now, Server)
        if is_now.state == "Stopped":
            assert name not in world.guests
            continue
        changed = [path for path, *_ in diff.differences(fields.write(was), fields.write(is_now))]
        forced = any(not diff.row_of(path).startswith(LIVE) for path in changed)
        forced |= first.digests[was.image] != second.digests[is_now.image]
        if machine.ceilings:
            limits = [s.resources.get("rlimits.nofile", machine.limits["nofile"])[1] for s in (was, is_now)]
            cores = [s.resources.get("rlimits.core", machine.limits["core"])[1] for s in (was, is_now)]
            forced |= limits[1] > limits[0] or (cores[0] == 0 and cores[1] != 0)
        forced |= on_host(first, was) != on_host(second, is_now)
        forced |= disk_forces(machine, [limits_of(first, was), limits_of(second, is_now)])
        event(f"forced: {forced}")
        assert (world.guests[name].pid != before[name]) == forced, (changed, costs.get(name))
        assert forced == (costs.get(name) in ("restart", "recreate"))
        assert (costs.get(name) == "recreate") == (was.ephemeral != is_now.ephemeral)


@on_each_machine
@few
@given(data=st.data())
def test_taking_back_the_steps_of_a_live_change_leads_back(machine: Machine, data: st.DataObject) -> None:
    world = World(machine)
    first = data.draw(wanteds(machine))
    converge(first, world)
    drift(data.draw, world, most=1)
    second = data.draw(changed_a_little(first, machine))
    planned = world.copy().networks.guests
    for change in plan_of(second, world).changes:
        if change.cost != "live":
            for step in change.steps:
                world.do(step, second)
            continue
        before = world.copy()
        tried = world.copy()
        done: list[Step] = []
        for step in change.steps[: data.draw(st.integers(0, len(change.steps)))]:
            tried.do(step, second)
            done.append(step)
        lowered = any(type(step).__name__ == "SetLimit" for step in done) and machine.ceilings
        if not lowered:
            simulate.take_back(done, second, tried)
            for key in before.files:
                # CPUs that were not set stay written out: no kernel takes all of a process's CPUs away.
                kept = {f: text for f, text in before.files[key].items() if text or "cpuset" not in f}
                assert {f: tried.files[key][f] for f in kept} == kept
            for name, attached in before.networks.guests.items():
                after = tried.networks.guests[name]
                assert after.interfaces == attached.interfaces
                for file, text in after.names.items():
                    # Mounted files stay, see MountNames. An earlier change may have repaired what was seen.
                    had = {
                        each[name].names.get(file, "")
                        for each in (planned, before.networks.guests)
                        if name in each
                    }
                    assert text in had
                assert attached.names.keys() <= after.names.keys()
            assert tried.networks.guests.keys() == before.networks.guests.keys()
            moved = any(isinstance(step, MoveProcesses | MakeGroup) for step in done)
            assert moved or tried.guests == before.guests
            assert any(isinstance(s, WriteMark | WriteApplied) for s in done) or tried.marks == before.marks
        for step in change.steps:
            world.do(step, second)
    assert plan_of(second, world).empty
