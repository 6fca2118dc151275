"""The order of writes: the kernel refuses none, and nothing is wider open in between than before or after."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tests.unit.simulate import World, apply
from tests.unit.simulate_groups import HOME, number
from tests.unit.simulate_networks import Refused
from tests.unit.wishes import HOST, V1, V2, device, machine
from vsprov.model.kinds.image import Image
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.sections.init import Init
from vsprov.model.kinds.server import Server
from vsprov.model.limits.knobs import BY_PATH
from vsprov.model.objects import Object
from vsprov.model.sources import HostSource, Source
from vsprov.model.values.units import MAX, expand_ids
from vsprov.plan.builder import Wanted
from vsprov.plan.limits import groups
from vsprov.plan.observed import Machine, ObservedGroup
from vsprov.plan.reconcile import reconcile
from vsprov.plan.steps import WriteFile

MI = 2**20
DEFAULT: Any = None
on_both = pytest.mark.parametrize("host", [V1, V2], ids=["v1", "v2"])


def choices(**values: list[Any]) -> list[dict[str, Any]]:
    """Every combination of the values; None leaves a knob at its default."""
    paths = [key.replace("_", ".") for key in values]
    rows = (dict(zip(paths, row, strict=True)) for row in itertools.product(*values.values()))
    return [{path: value for path, value in row.items() if value is not DEFAULT} for row in rows]


MEMORY = choices(
    memory_max=[DEFAULT, 64 * MI, 96 * MI, 128 * MI, MAX], memory_swapMax=[DEFAULT, 0, 32 * MI, 64 * MI, MAX]
)
CPU = [
    group
    for group in choices(cpu_limit=[DEFAULT, 200, 500, 1000, 2000], cpu_burst=[DEFAULT, 0, 20_000, 50_000])
    if group.get("cpu.burst", 0) <= (group["cpu.limit"] * 100 if "cpu.limit" in group else 0)
]
CPUS = choices(cpu_cpus=[DEFAULT, "0", "0-1", "1-3"], cpu_mems=[DEFAULT, "0"])
DEVICES = choices(
    io_devices=[
        DEFAULT,
        (device("/dev/vda", readBps=1),),
        (device("/dev/vda", readBps=2, writeIops=3), device("/dev/vdb", writeBps=1)),
    ],
    pids_max=[DEFAULT, 5],
)


class Watched(World):
    """A world that remembers, of every group, how much CPU it was allowed and what its files said."""

    history: list[tuple[str, dict[str, str]]]

    def write(self, hierarchy: str, group: str, file: str, text: str) -> None:
        super().write(hierarchy, group, file, text)
        self.history.append((group, dict(self.files[hierarchy, group])))


def world_with(host: Machine, texts: Mapping[str, str]) -> Watched:
    """One group with these files, and the defaults in all others."""
    world = Watched(host)
    world.history = []
    world.subtree = {"": {name for name, version in host.versions.items() if version == 2}, "g": set()}
    for hierarchy in world.hierarchies():
        default = world.fresh_files(hierarchy, "g")
        for controller, side in world.sides(hierarchy):
            if controller == "cpuset":
                default |= side.encode(None, {}, HOST)
        world.files[hierarchy, "g"] = {file: texts.get(file, text) for file, text in default.items()}
    return world


def texts_of(host: Machine, resources: Mapping[str, Any]) -> dict[str, str]:
    out: dict[str, str] = {}
    for path, value in resources.items():
        if side := host.side(BY_PATH[path]):
            out |= side.encode(value, resources, HOST)
    return out


def seen(world: World) -> ObservedGroup:
    return ObservedGroup("g", "vsprov/mine", world.group("g").texts, frozenset(world.hierarchies()))


def limits(texts: Mapping[str, str]) -> Iterable[tuple[str, float]]:
    """What a group allows, in numbers that are larger when it allows more."""
    for file, text in texts.items():
        if file == "cpu.max" or file == "cpu.cfs_quota_us":
            yield "cpu", groups.bandwidth({f: texts[f] for f in (file, "cpu.cfs_period_us") if f in texts})
        elif "burst" in file or file.startswith(("memory.", "pids.")):
            yield file, number(text)
        elif file == "cpuset.cpus":
            yield from ((f"CPU {one}", not text or one in expand_ids(text)) for one in range(4))


def assert_narrow(history: Iterable[tuple[str, dict[str, str]]], before: Any, after: Any) -> None:
    most = {name: max(value, dict(limits(after))[name]) for name, value in limits(before)}
    for _, texts in history:
        for name, value in limits(texts):
            assert value <= most[name], f"{name} is {value} in between, {most[name]} at most"


def change(world: Watched, resources: Mapping[str, Any]) -> tuple[WriteFile, ...]:
    """Write what the group lacks of the resources; returns the writes."""
    writes = groups.file_writes("g", groups.compare(resources, seen(world), world.machine), world.machine)
    for step in writes:
        world.do(step, Wanted("g", "vsprov/mine"))
    return writes


@on_both
@pytest.mark.parametrize("family", [MEMORY, CPU, CPUS, DEVICES], ids=["memory", "cpu", "cpus", "devices"])
def test_every_change_of_a_group_is_taken_by_the_kernel_and_can_be_taken_back(
    host: Machine, family: list[dict[str, Any]]
) -> None:
    for before, after in itertools.product(family, family):
        world = world_with(host, texts_of(host, before))
        old = seen(world).texts
        writes = change(world, after)
        new = seen(world).texts
        assert_narrow(world.history, old, new)
        assert groups.compare(after, seen(world), host).differences == ()
        world.history.clear()
        for step in reversed(writes):
            back = step.undo()
            assert back is not None
            world.do(back, Wanted("g", "vsprov/mine"))
        assert seen(world).texts == old
        assert_narrow(world.history, old, new)


DRIFTED = [
    {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": period, "cpu.cfs_burst_us": burst}
    for quota, period, burst in itertools.product(
        ["-1", "20000", "123456", "200000"], ["50000", "100000", "200000"], ["0", "15000", "90000"]
    )
    if quota == "-1" or int(burst) <= int(quota)
]


def test_a_period_someone_changed_is_set_right_without_opening_the_group() -> None:
    for before, after in itertools.product(DRIFTED, CPU):
        world = world_with(V1, before)
        old = seen(world).texts
        change(world, after)
        assert_narrow(world.history, old, seen(world).texts)
        assert groups.compare(after, seen(world), V1).differences == ()


def test_memory_that_someone_changed_is_set_right() -> None:
    texts = ["4096", str(80 * MI), "-1"]
    for limit, both, after in itertools.product(texts, texts, MEMORY):
        if number(limit) <= number(both):
            before = {
                "memory.limit_in_bytes": limit,
                "memory.memsw.limit_in_bytes": both,
                "memory.kmem.tcp.limit_in_bytes": "-1",
            }
            world = world_with(V1, before)
            change(world, after)
            assert_narrow(world.history, {**seen(world).texts, **before}, seen(world).texts)
            assert groups.compare(after, seen(world), V1).differences == ()


@pytest.mark.parametrize(
    ("before", "after", "files"),
    [
        ({"memory.max": 64 * MI, "memory.swapMax": 0}, {"memory.max": 128 * MI, "memory.swapMax": 0},
         ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes"]),
        ({"memory.max": 128 * MI, "memory.swapMax": 0}, {"memory.max": 64 * MI, "memory.swapMax": 0},
         ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes"]),
        ({"cpu.limit": 500, "cpu.burst": 50_000}, {"cpu.limit": 200, "cpu.burst": 20_000},
         ["cpu.cfs_burst_us", "cpu.cfs_quota_us"]),
        ({"cpu.limit": 200, "cpu.burst": 20_000}, {"cpu.limit": 500, "cpu.burst": 50_000},
         ["cpu.cfs_quota_us", "cpu.cfs_burst_us"]),
    ],
)  # fmt: skip
def test_what_bounds_another_file_is_raised_before_it_and_lowered_after_it(
    before: dict[str, Any], after: dict[str, Any], files: list[str]
) -> None:
    world = world_with(V1, texts_of(V1, before))
    assert [step.file for step in change(world, after)] == files


def test_the_simulated_kernel_refuses_what_the_real_one_does() -> None:
    """The refusals that were tried on cgroup v1 of Linux 6.18."""
    world = world_with(V1, {})
    for hierarchy in world.hierarchies():
        world.files[hierarchy, "g/c"] = dict(world.files[hierarchy, "g"])
    world.subtree["g/c"] = set()
    world.write("cpu", "g", "cpu.cfs_burst_us", "50000")
    for hierarchy, group, file, text, taken in [
        ("cpu", "g", "cpu.cfs_quota_us", "20000", False),
        ("cpu", "g", "cpu.cfs_burst_us", "0", True),
        ("cpu", "g", "cpu.cfs_quota_us", "20000", True),
        ("cpu", "g", "cpu.cfs_burst_us", "30000", False),
        ("cpu", "g/c", "cpu.cfs_quota_us", "30000", False),
        ("cpu", "g/c", "cpu.cfs_quota_us", "20000", True),
        ("cpu", "g", "cpu.cfs_quota_us", "10000", False),
        ("cpu", "g", "cpu.cfs_period_us", "200000", False),
        ("cpu", "g", "cpu.cfs_period_us", "50000", True),
        ("cpuset", "g", "cpuset.cpus", "0", False),
        ("cpuset", "g/c", "cpuset.cpus", "0", True),
        ("cpuset", "g", "cpuset.cpus", "0-1", True),
        ("cpuset", "g/c", "cpuset.cpus", "0-2", False),
        ("memory", "g", "memory.limit_in_bytes", "8192000", True),
        ("memory", "g", "memory.memsw.limit_in_bytes", "8187904", False),
        ("memory", "g", "memory.memsw.limit_in_bytes", "8192000", True),
        ("memory", "g", "memory.limit_in_bytes", "9000000", False),
    ]:
        if taken:
            world.write(hierarchy, group, file, text)
        else:
            with pytest.raises(Refused):
                world.write(hierarchy, group, file, text)


# -- a pool and a server in it


def pool_and_server(pool: dict[str, Any], server: dict[str, Any]) -> Wanted:
    spec = Server(image="i", quota="p", resources=server, hostname="s", init=Init(command=("/x",)))
    return Wanted(
        "vsprov",
        "vsprov/mine",
        (
            Object(kind="Image", name="i", spec=Image(source=Source(host=HostSource()))),
            Object(kind="Quota", name="p", spec=Quota(scope="pool", resources=pool)),
            Object(kind="Server", name="s", spec=spec),
        ),
        {"i": "sha256:1"},
    )


def fits(pool: dict[str, Any], server: dict[str, Any]) -> bool:
    return not groups.refusals(server, pool, V1)


def pairs(family: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(pool, server) for pool, server in itertools.product(family, family) if fits(pool, server)]


POOLED_LIMITS = pairs(choices(cpu_limit=[DEFAULT, 500, 1000, 2000]))
POOLED_CPUS = pairs(choices(cpu_cpus=[DEFAULT, "0", "0-1", "1-2"]))
SMALL = {"v1": machine({"cpu": 1, "cpuset": 1}), "v2": machine({"cpu": 2, "cpuset": 2})}


@pytest.mark.parametrize("host", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("states", [POOLED_LIMITS, POOLED_CPUS], ids=["limits", "cpus"])
def test_every_change_of_a_pool_and_its_server_is_taken_by_the_kernel(
    host: Machine, states: list[Any]
) -> None:
    for state in states:
        start = Watched(host)
        start.history = []
        first = pool_and_server(*state)
        apply(reconcile(first, start.observe(), host), first, start)
        for other in states:
            world = start.copy()
            assert isinstance(world, Watched)
            world.history = []
            before = world.observe()
            wanted = pool_and_server(*other)
            apply(reconcile(wanted, before, host), wanted, world)
            after = world.observe()
            assert reconcile(wanted, after, host).empty
            for group in ("vsprov/p", "vsprov/p/s"):
                hist = [entry for entry in world.history if entry[0] == group]
                old, new = (
                    w.pools["p"] if group == "vsprov/p" else w.servers["s"].group for w in (before, after)
                )
                assert old is not None and new is not None
                if set(old.texts) == set(new.texts):
                    assert_narrow(hist, old.texts, new.texts)


def test_a_pool_whose_period_someone_changed_is_set_right_around_its_server() -> None:
    host = SMALL["v1"]
    for (pool, server), quota, period in itertools.product(
        POOLED_LIMITS, ["40000", "100000", "300000", "-1"], ["50000", "200000"]
    ):
        world = World(host)
        first = pool_and_server(pool, server)
        apply(reconcile(first, world.observe(), host), first, world)
        try:
            world.write("cpu", "vsprov/p", "cpu.cfs_quota_us", "-1")
            world.write("cpu", "vsprov/p", "cpu.cfs_period_us", period)
            world.write("cpu", "vsprov/p", "cpu.cfs_quota_us", quota)
        except Refused:
            continue
        for other in ((pool, server), ({"cpu.limit": 1500}, server)):
            if fits(*other):
                changed = world.copy()
                wanted = pool_and_server(*other)
                apply(reconcile(wanted, changed.observe(), host), wanted, changed)
                assert reconcile(wanted, changed.observe(), host).empty


def test_a_pool_gets_its_room_before_a_server_that_needs_it_starts() -> None:
    world = World(V2)
    small = pool_and_server({"memory.max": 64 * MI}, {})
    apply(reconcile(small, world.observe(), V2), small, world)
    large = pool_and_server({"memory.max": 256 * MI}, {"memory.max": 200 * MI})
    keys = [(change.key, [step.file for step in change.steps if isinstance(step, WriteFile)])
            for change in reconcile(large, world.observe(), V2).changes]  # fmt: skip
    assert keys == [("Quota/p", ["memory.max"]), ("Server/s", ["memory.max"])]


def test_a_pool_is_narrowed_after_the_server_that_leaves_it() -> None:
    world = World(V1)
    first = pool_and_server({"cpu.limit": 2000}, {"cpu.limit": 2000})
    apply(reconcile(first, world.observe(), V1), first, world)
    wanted = pool_and_server({"cpu.limit": 500}, {})
    image, pool, server = wanted.objects
    assert isinstance(server.spec, Server)
    for objects in (
        (image, pool),
        (image, pool, Object(kind="Server", name="s", spec=Server(image="i", hostname="s", init=Init()))),
    ):
        narrowed = Wanted("vsprov", "vsprov/mine", objects, {"i": "sha256:1"}, prune=True)
        plan = reconcile(narrowed, world.observe(), V1)
        settle = next(change for change in plan.changes if change.key == "Quota/p#lower-limits")
        assert settle.after == ("Quota/p", "Server/s")
        there = world.copy()
        apply(plan, narrowed, there)
        assert there.files["cpu", "vsprov/p"]["cpu.cfs_quota_us"] == "50000"


def test_a_pool_is_not_narrowed_below_a_server_that_stays_in_it_unmentioned() -> None:
    world = World(V1)
    first = pool_and_server({"cpu.limit": 2000}, {"cpu.limit": 2000})
    apply(reconcile(first, world.observe(), V1), first, world)
    image, pool, _ = pool_and_server({"cpu.limit": 500}, {}).objects
    plan = reconcile(Wanted("vsprov", "vsprov/mine", (image, pool), {"i": "sha256:1"}), world.observe(), V1)
    assert [str(problem) for problem in plan.problems] == [
        "Quota/p: server s, which is in this pool but not in the manifest, exceeds the new limits"
    ]


@pytest.mark.parametrize(
    ("host", "resources", "pool", "said"),
    [
        (
            V1,
            {"cpu.limit": 2000},
            {"cpu.limit": 1000},
            {"cpu.limit": "2 exceeds the limit of the pool, 1"},
        ),
        (
            V1,
            {"cpu.limit": MAX},
            {"cpu.limit": 1000},
            {"cpu.limit": "max exceeds the limit of the pool, 1"},
        ),
        (V1, {"cpu.limit": 1000}, {"cpu.limit": MAX}, {}),
        (V2, {"cpu.limit": 2000}, {"cpu.limit": 1000}, {}),
        (
            V1,
            {"cpu.cpus": "0-1"},
            {"cpu.cpus": "1-2"},
            {"cpu.cpus": "0 not available: the pool has 1-2"},
        ),
        (V2, {"cpu.cpus": "0-1"}, {"cpu.cpus": "1-2"}, {}),
        (V2, {"cpu.cpus": "2-9"}, {}, {"cpu.cpus": "4-9 not available: this host has 0-3"}),
        (V1, {"cpu.mems": "1"}, {}, {"cpu.mems": "1 not available: this host has 0"}),
    ],
)
def test_what_the_kernel_would_not_take_is_said_before(
    host: Machine, resources: dict[str, Any], pool: dict[str, Any], said: dict[str, str]
) -> None:
    assert groups.refusals(resources, pool, host) == said


def test_cgroup2_needs_no_directory_in_other_hierarchies() -> None:
    assert groups.compare({}, None, V2).make == (HOME,)
    assert groups.compare({}, None, V1).make == (HOME, "cpu", "memory", "pids")
    assert groups.compare({"io.devices": DEVICES[2]["io.devices"]}, None, V1).make == (
        *(HOME, "blkio", "cpu", "memory", "pids"),
    )
