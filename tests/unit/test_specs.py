"""What was observed, as specs: wanting them changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit import simulate
from tests.unit.simulate import World
from tests.unit.test_plan_converges import few, on_each_machine, shown
from tests.unit.wishes import HYBRID, V1, V2, wanteds
from vsprov.manifest import load as manifests
from vsprov.model.kinds.network import Interface as InterfaceSpec
from vsprov.model.kinds.server import Server
from vsprov.model.objects import API_VERSION, Object
from vsprov.model.values.units import MAX
from vsprov.plan.builder import Wanted
from vsprov.plan.compare import applied
from vsprov.plan.kinds import quota
from vsprov.plan.kinds.planner import PLANNERS, Shown
from vsprov.plan.limits import resources
from vsprov.plan.network.state import Interface, SeenNetworks
from vsprov.plan.observed import Machine, Observed, ObservedGroup, ObservedServer, Process
from vsprov.plan.reconcile import reconcile

MI = 2**20


def documents(observed: Observed, machine: Machine) -> list[dict[str, Any]]:
    shown = Shown(observed, machine, quota.weights(observed, machine))
    found = [
        (kind, name, planner.show(name, shown, frozenset()), getattr(seen, "applied", None))
        for kind, planner in PLANNERS.items()
        for name, seen in planner.observed(observed).items()
    ]
    return [
        {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {
                "name": name,
                **(
                    {key: applied[key] for key in ("labels", "annotations")}
                    if kind == "Server" and applied
                    else {}
                ),
            },
            "spec": spec,
        }
        for kind, name, spec, applied in found
    ]


@on_each_machine
@few
@given(data=st.data())
def test_a_plan_for_what_was_observed_is_empty(machine: Machine, data: st.DataObject) -> None:
    world = World(machine)
    wanted = data.draw(wanteds(machine))
    simulate.apply(reconcile(wanted, world.observe(wanted), machine), wanted, world)
    observed = world.observe()
    again = manifests.load_documents(documents(observed, machine)).objects
    digests = {name: image.digest for name, image in observed.images.items()}
    plan = reconcile(Wanted(wanted.instance, wanted.owner, again, digests), observed, machine)
    assert plan.empty and not plan.problems, shown(plan)


def group(texts: dict[str, str]) -> ObservedGroup:
    return ObservedGroup("vsprov/a", "vsprov/default", texts, frozenset([""]))


@pytest.mark.parametrize(
    ("recorded", "texts", "shown"),
    [
        ({"memory.max": 64 * MI}, {"memory.max": str(64 * MI)}, {"memory.max": 64 * MI}),
        ({"memory.max": 64 * MI}, {"memory.max": str(32 * MI)}, {"memory.max": 32 * MI}),
        ({"memory.max": 64 * MI}, {"memory.max": "max"}, {}),
        ({}, {"memory.max": str(32 * MI)}, {"memory.max": 32 * MI}),
        ({"memory.max": 64 * MI + 1}, {"memory.max": str(64 * MI)}, {"memory.max": 64 * MI + 1}),
        ({"memory.max": MAX}, {"memory.max": "max"}, {"memory.max": MAX}),
        ({"cpu.limit": 500}, {"cpu.max": "25000 100000"}, {"cpu.limit": 250}),
    ],
)
def test_a_value_is_the_recorded_one_while_the_kernel_shows_it_and_else_the_kernels(
    recorded: dict[str, Any], texts: dict[str, str], shown: dict[str, Any]
) -> None:
    assert resources.of_group(recorded, group(texts), V2) == shown


def test_a_weight_that_a_reservation_leads_to_is_not_taken_for_a_declared_one() -> None:
    held = group({"cpu.weight": "512"})
    assert resources.of_group({"cpu.reservation": 250}, held, V2, weight=512) == {"cpu.reservation": 250}
    drifted = resources.of_group({"cpu.reservation": 250}, group({"cpu.weight": "7"}), V2, weight=512)
    assert drifted == {"cpu.weight": 7, "cpu.reservation": 250}


def test_swap_on_cgroup_v1_is_what_memsw_leaves_above_memory() -> None:
    texts = {"memory.limit_in_bytes": str(64 * MI), "memory.memsw.limit_in_bytes": str(80 * MI)}
    recorded = {"memory.max": 64 * MI, "memory.swapMax": 0}
    assert resources.of_group(recorded, group(texts), V1) == {
        "memory.max": 64 * MI,
        "memory.swapMax": 16 * MI,
    }


def test_the_limit_of_a_device_that_is_gone_is_told_by_its_number() -> None:
    recorded = {"io.devices": ((("device", "/dev/gone"), ("readBps", MI)),)}
    texts = {"io.max": "8:32 rbps=1048576 wbps=max riops=max wiops=max"}
    shown = resources.of_group(recorded, group(texts), V2)
    assert dict(shown["io.devices"][0])["device"] == "8:32"


def test_settled_specs_are_as_the_kernel_rounds_and_without_its_defaults() -> None:
    spec = {
        "image": "host",
        "resources": {"memory": {"max": 64 * MI + 5}, "cpu": {"weight": 100, "limit": "max"}},
    }
    assert PLANNERS["Server"].rounded(spec, V2) == {
        "image": "host",
        "resources": {"memory": {"max": 64 * MI}},
    }
    assert quota.rounded({"scope": "pool", "cpu": {"weight": 100}}, HYBRID) == {"scope": "pool"}
    image = {"source": {"host": {}}}
    assert PLANNERS["Image"].rounded(image, HYBRID) == image


def test_a_server_that_was_stopped_by_hand_is_shown_stopped_with_its_last_spec() -> None:
    world = World(V2)
    (wanted,) = [Wanted("vsprov", "vsprov/default", objects()) for objects in [_one_server]]
    wanted = replace(wanted, digests={"host": "sha256:1"})
    simulate.apply(reconcile(wanted, world.observe(), V2), wanted, world)
    seen = world.observe().servers["a"]
    stopped = Observed(servers={"a": replace(seen, init=None, live={})})
    spec = PLANNERS["Server"].show("a", Shown(stopped, V2, {}), frozenset())
    assert (spec["state"], spec["hostname"], spec["init"]["command"]) == ("Stopped", "a", ["/bin/true"])


def _one_server() -> tuple[Object, ...]:
    text = [
        {
            "apiVersion": API_VERSION,
            "kind": "Image",
            "metadata": {"name": "host"},
            "spec": {"source": {"host": {}}},
        },
        {
            "apiVersion": API_VERSION,
            "kind": "Server",
            "metadata": {"name": "a"},
            "spec": {"image": "host", "init": {"command": ["/bin/true"]}},
        },
    ]
    return manifests.load_documents(text).objects


def test_a_running_server_is_shown_with_the_addresses_that_it_has() -> None:
    interfaces = tuple(InterfaceSpec(name=name, network="lan") for name in ("eth0", "eth1"))
    want = Object(kind="Server", name="a", spec=Server(image="base", hostname="a", interfaces=interfaces))
    record = applied.record(want, "sha256:1", {"eth0": ["10.20.0.5/24"], "eth1": ["10.20.0.6/24"]})
    running = ObservedServer("a", applied=record, init=Process(7, 7))

    def shown(*has: Interface) -> Any:
        seen = SeenNetworks(interfaces={"a": {one.name: one for one in has}})
        observed = Observed(servers={"a": running}, networks=seen)
        return PLANNERS["Server"].show("a", Shown(observed, V2, {}), frozenset())["interfaces"]

    eth0 = Interface("eth0", "veth", "02:00:00:00:00:01", 1500, frozenset(["10.20.0.5/24"]))
    renamed = replace(eth0, name="foo")
    assert shown(eth0, replace(eth0, name="eth1", addresses=frozenset(["10.20.0.9/24"]))) == [
        {"name": "eth0", "network": "lan", "addresses": ["auto"], "gateway": True},
        {"name": "eth1", "network": "lan", "addresses": ["10.20.0.9/24"], "gateway": True},
    ]
    assert shown(renamed) == []
