"""Rates of pools: whatever happens to them and to their servers, the plan after a plan is empty."""

from __future__ import annotations

from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.effort import examples
from tests.unit import simulate
from tests.unit.simulate import World
from tests.unit.test_plan_converges import converge, plan_of
from tests.unit.wishes import INSTANCE, MACHINES
from tests.unit.wishes_networks import SHARED, damage_pool
from vsprov.model.kinds.image import Image
from vsprov.model.kinds.network import Interface, Network
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.sections.init import Init
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.model.sources import HostSource, Source
from vsprov.plan.builder import Wanted
from vsprov.plan.network import naming
from vsprov.plan.network.steps import ChangePool, MakePool, RemoveShares

POOLS = ("p", "q")


def server(name: str, quota: str | None, egress: int | None) -> Object:
    spec = Server(
        image="i",
        quota=quota,
        hostname=name,
        init=Init(command=("/bin/sleep", "1")),
        interfaces=(
            Interface(name="eth0", network="lan"),
            Interface(name="eth1", network="lan", gateway=False),
        ),
        resources={} if egress is None else {"network.egress": egress},
    )
    return Object(kind="Server", name=name, spec=spec)


def wanted(rates: dict[str, dict[str, int]], servers: dict[str, tuple[str | None, int | None]]) -> Wanted:
    found = [
        Object(kind="Image", name="i", spec=Image(source=Source(host=HostSource()))),
        Object(kind="Network", name="lan", spec=Network(subnets=("10.20.0.0/24",))),
        *(Object(kind="Quota", name=name, spec=Quota(scope="pool", resources=rates[name])) for name in POOLS),
        *(server(name, *each) for name, each in servers.items()),
    ]
    return Wanted(INSTANCE, "vsprov/mine", tuple(found), {"i": "sha256:1"}, True)


@st.composite
def wishes(draw: st.DrawFn) -> Wanted:
    each = st.tuples(st.sampled_from([None, *POOLS, *POOLS]), st.sampled_from([None, 9_000_000]))
    servers = draw(st.dictionaries(st.sampled_from(["a", "b", "c"]), each))
    return wanted({name: draw(st.sampled_from(SHARED)) for name in POOLS}, servers)


@examples(40)
@given(data=st.data())
def test_the_plan_after_a_plan_is_empty(data: st.DataObject) -> None:
    world = World(next(iter(MACHINES.values())))
    for _ in range(3):
        plan = converge(data.draw(wishes()), world)
        for change in plan.changes:
            for step in change.steps:
                if isinstance(step, MakePool | ChangePool | RemoveShares):
                    event(type(step).__name__)
        damage_pool(data.draw, world)
        if data.draw(st.booleans()) and world.guests:
            del world.guests[data.draw(st.sampled_from(sorted(world.guests)))]
    assert not converge(data.draw(wishes()), world).problems
    assert set(shares(world)) <= {
        each.link for guest in world.networks.guests.values() for each in guest.interfaces.values()
    }


def test_servers_keep_their_shares_when_the_record_of_their_network_is_lost() -> None:
    world = World(next(iter(MACHINES.values())))
    limits = {name: {"network.egress": 20_000_000} for name in POOLS}
    first = wanted(limits, {"a": ("p", None)})
    converge(first, world)
    before = shares(world)
    assert before
    world.networks.records["lan"] = (world.networks.records["lan"][0], "")
    only_the_image = replace(first, objects=first.objects[:1], prune=False)
    simulate.apply(plan_of(only_the_image, world), only_the_image, world)
    assert shares(world) == before


def shares(world: World) -> list[str]:
    """The links that have a share of a rate."""
    return [link for pool in world.networks.host_links().values() for link in pool.shares.values()]


def test_a_server_that_joins_leaves_the_others_their_numbers_and_one_that_leaves_frees_its_own() -> None:
    world = World(next(iter(MACHINES.values())))
    rates: dict[str, dict[str, int]] = {"p": {"network.egress": 8_000_000}, "q": {}}
    member: tuple[str | None, int | None] = ("p", None)
    link = naming.pool_link_name(INSTANCE, "p", "egress")

    def numbers(*names: str) -> dict[int, str]:
        converge(wanted(rates, dict.fromkeys(names, member)), world)
        found = {
            each.link: name for name in names for each in world.networks.guests[name].interfaces.values()
        }
        return {number: found[of] for number, of in world.networks.host_links()[link].shares.items()}

    assert numbers("b") == {1: "b", 2: "b"}
    assert numbers("a", "b") == {1: "b", 2: "b", 3: "a", 4: "a"}
    assert numbers("a") == {3: "a", 4: "a"}
    assert numbers("a", "c") == {3: "a", 4: "a", 1: "c", 2: "c"}


def test_the_rate_of_a_pool_is_shown_where_it_changes() -> None:
    world = World(next(iter(MACHINES.values())))
    rates: dict[str, dict[str, int]] = {"p": {"network.egress": 8_000_000}, "q": {}}
    servers: dict[str, tuple[str | None, int | None]] = {"a": ("p", None)}
    converge(wanted(rates, servers), world)
    plan = plan_of(wanted({**rates, "p": {"network.egress": 9_000_000}}, servers), world)
    found: list[Any] = [(path.path, *path.shown) for change in plan.changes for path in change.paths]
    assert ("Quota/p: spec.network.egress", "8Mbit", "9Mbit") in found
    assert {change.cost for change in plan.changes} == {"live"}
