"""Random machines, random things to want of them, and random things that happen to what was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit import wishes_networks
from tests.unit.simulate import World
from tests.unit.simulate_groups import HOME
from tests.unit.simulate_networks import Networks, Refused
from vsprov.model.kinds.image import Image
from vsprov.model.kinds.network import Network
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.sections.dependencies import Dependency
from vsprov.model.kinds.sections.init import Init
from vsprov.model.kinds.sections.mounts import Mount
from vsprov.model.kinds.sections.security import Security
from vsprov.model.kinds.server import Server
from vsprov.model.limits.encodings import Host
from vsprov.model.limits.knobs import BY_PATH
from vsprov.model.objects import Object
from vsprov.model.sources import HostSource, Source
from vsprov.model.values.units import MAX
from vsprov.plan.builder import Wanted
from vsprov.plan.limits import groups
from vsprov.plan.observed import Machine

INSTANCE = "vsprov"
CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")
HOST = Host(4096, "0-3", "0", {"/dev/vda": "8:0", "/dev/vdb": "8:16"})
DISKS = {"project": "the file system has none", "qgroup": "not a btrfs", "image": ""}
LIMITS = {"nofile": (1024, 4096), "core": (0, MAX)}


def machine(versions: dict[str, int], **more: Any) -> Machine:
    return Machine(HOST, versions, cpus=4, memory=2**34, limits=LIMITS, disks=DISKS, **more)


V1 = machine(dict.fromkeys(CONTROLLERS, 1))
V2 = machine(dict.fromkeys(CONTROLLERS, 2))
HYBRID = machine({**dict.fromkeys(CONTROLLERS[:-1], 1), "hugetlb": 2})
QUOTAS = replace(V2, disks=DISKS | {"project": ""})  # a host whose state root has project quotas
BTRFS = replace(V1, disks=DISKS | {"qgroup": ""})
# A v1 host that counts no swap, has no huge pages, no burst, no io controller and no right to raise limits.
POOR = machine(
    {"cpu": 1, "cpuset": 1, "memory": 1, "pids": 2},
    missing=frozenset(["memory.memsw.limit_in_bytes", "cpu.cfs_burst_us"]),
    ceilings={"nofile": 4096},
)
MACHINES = {"v1": V1, "v2": V2, "hybrid": HYBRID, "poor": POOR, "quotas": QUOTAS, "btrfs": BTRFS}

MI = 2**20


def device(path: str, **limits: Any) -> tuple[tuple[str, Any], ...]:
    keys = ("readBps", "writeBps", "readIops", "writeIops")
    return (("device", path), *((key, limits.get(key, MAX)) for key in keys))


VALUES: dict[str, list[Any]] = {
    "cpu.weight": [1, 100, 500],
    "cpu.limit": [500, 1000, 2000, MAX],
    "cpu.burst": [0, 10_000, 50_000],
    "cpu.reservation": [10, 100, 400],
    "cpu.cpus": ["0", "1", "0-1", "0-3"],
    "cpu.mems": ["0"],
    "memory.min": [0, 4 * MI],
    "memory.low": [8 * MI],
    "memory.high": [32 * MI, MAX],
    "memory.max": [64 * MI, 64 * MI + 5, 128 * MI, MAX],
    "memory.swapMax": [0, 32 * MI, MAX],
    "memory.oomGroup": [True, False],
    "pids.max": [50, 100, MAX],
    "io.weight": [100, 200],
    "io.devices": [
        (device("/dev/vda", readBps=MI),),
        (device("/dev/vda", writeIops=7), device("/dev/vdb", readBps=2 * MI, readIops=9)),
    ],
    "hugepages.2Mi": [2 * MI, 64 * MI],
    "network.egress": [10_000_000, MAX],
    "disk.space": [64 * MI, 64 * MI + 5, 128 * MI, MAX],
    "rlimits.nofile": [(100, 200), (1024, 4096), (50, 4000)],
    "rlimits.core": [(0, 0), (0, MAX)],
}
assert set(VALUES) <= set(BY_PATH)
ALONE = ("rlimits.",)  # what a pool cannot share
MOST_SERVERS = 3  # in one wish, and so in one pool


@st.composite
def resources(
    draw: st.DrawFn, machine: Machine, pool: dict[str, Any] | None = None, *, of_pool: bool = False
) -> Any:
    """Resources that manifest and machine accept, in a group with the resources of `pool` around it."""
    paths = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=6, unique=True))
    out = {
        path: draw(st.sampled_from(VALUES[path]))
        for path in paths
        if not of_pool or not path.startswith(ALONE)
    }
    for path in [path for path in out if groups.refusals({path: out[path]}, pool or {}, machine)]:
        del out[path]
    if out.get("cpu.burst", 0) > (0 if out.get("cpu.limit", MAX) == MAX else out["cpu.limit"] * 100):
        del out["cpu.burst"]
    shared = (pool or {}).get("disk.space", MAX) != MAX
    by_project = not machine.disks["project"]
    if (shared and by_project) or (of_pool and not by_project and machine.disks["qgroup"]):
        out.pop("disk.space", None)
    around = (pool or {}).get("cpu.limit", MAX)
    if around != MAX and out.get("cpu.reservation", 0) > around // MOST_SERVERS:
        del out["cpu.reservation"]
    return out


@st.composite
def wanteds(draw: st.DrawFn, machine: Machine, owner: str = "vsprov/mine", names: str = "abc") -> Wanted:
    """What an apply may ask for: servers, some in pools, some after others, and the images they need."""
    images = {f"{names[0]}-{name}": draw(st.sampled_from(["sha256:1", "sha256:2"])) for name in "ij"}
    found = [Object(kind="Image", name=name, spec=Image(source=Source(host=HostSource()))) for name in images]
    networks = draw(wishes_networks.networks(names))
    found += [Object(kind="Network", name=name, spec=spec) for name, spec in networks.items()]
    pools: dict[str, dict[str, Any]] = {}
    for name in draw(st.sets(st.sampled_from(["p", "q"]))):
        name = f"{names[0]}-{name}"
        pools[name] = draw(resources(machine, of_pool=True)) | draw(st.sampled_from(wishes_networks.SHARED))
        found.append(Object(kind="Quota", name=name, spec=Quota(scope="pool", resources=pools[name])))
    order = draw(st.permutations(names))[: draw(st.integers(0, len(names)))]
    for i, name in enumerate(order):
        quota = draw(st.sampled_from([None, *sorted(pools)]))
        spec = Server(
            image=draw(st.sampled_from(sorted(images))),
            quota=quota,
            resources=draw(resources(machine, pools.get(quota or ""))),
            state=draw(st.sampled_from(["Running", "Running", "Stopped"])),
            hostname=draw(st.sampled_from(["one", "two"])),
            init=Init(
                command=draw(st.sampled_from([("/bin/sleep", "1"), ("/bin/sleep", "2")])),
                stop_signal=draw(st.sampled_from(["TERM", "INT"])),
            ),
            mounts=draw(st.sampled_from([(), (Mount(type="tmpfs", target="/t"),)])),
            security=Security(read_only_root=draw(st.booleans())),
            depends_on=tuple(Dependency(name=other) for other in order[:i] if draw(st.booleans())),
            ephemeral=draw(st.booleans()),
            **draw(wishes_networks.connections(name, networks)),
        )
        labels = draw(st.sampled_from([{}, {"tier": "web"}]))
        found.append(Object(kind="Server", name=name, spec=spec, labels=labels))
    return Wanted(INSTANCE, owner, tuple(draw(st.permutations(found))), images, draw(st.booleans()))


@st.composite
def changed_a_little(draw: st.DrawFn, wanted: Wanted, machine: Machine) -> Wanted:
    """The same with one thing changed about some servers, as most applies are."""
    pools = {one.name: one.spec.resources for one in wanted.objects if isinstance(one.spec, Quota)}
    networks = {one.name: one.spec for one in wanted.objects if isinstance(one.spec, Network)}
    out = []
    for one in wanted.objects:
        if isinstance(one.spec, Server) and draw(st.booleans()):
            pool = dict(pools.get(one.spec.quota or "", {}))
            new: dict[str, Any] = draw(
                st.one_of(
                    st.fixed_dictionaries({"resources": resources(machine, pool)}),
                    st.fixed_dictionaries({"hostname": st.sampled_from(["one", "two"])}),
                    st.fixed_dictionaries({"state": st.sampled_from(["Running", "Stopped"])}),
                    st.fixed_dictionaries({"init": st.just(replace(one.spec.init, stop_timeout=5))}),
                    st.fixed_dictionaries({"init": st.just(replace(one.spec.init, command=("/x",)))}),
                    wishes_networks.connections(one.name, networks),
                    st.fixed_dictionaries({"ephemeral": st.just(not one.spec.ephemeral)}),
                )
            )
            one = replace(one, spec=replace(one.spec, **new))
        out.append(one)
    return replace(wanted, objects=tuple(out))


# -- drift

Draw = Callable[..., Any]


def _write(draw: Draw, world: World) -> None:
    """Someone writes to a file of one of our groups; the kernel may refuse it to them too."""
    places = [(key, file) for key, files in world.files.items() if key[1] for file in files]
    if places:
        (hierarchy, group), file = draw(st.sampled_from(sorted(places)))
        try:
            world.write(hierarchy, group, file, draw(st.sampled_from(texts_of(file))))
        except Refused:
            pass


def texts_of(file: str) -> list[str]:
    """What the kernel may show in a file after someone wrote to it."""
    for part, texts in (
        ("cpuset.cpus", ["0", "1", "0-1", "0-3"]),
        ("cpuset.mems", ["0"]),
        ("period", ["50000", "200000", "100000"]),
        ("quota", ["20000", "123456", "-1"]),
        ("cpu.max.burst", ["0", "777"]),
        ("cpu.max", ["max 50000", "123456 100000", "25000 50000"]),
        ("burst", ["0", "777"]),
        ("shares", ["2", "1024", "777"]),
        ("io.weight", ["default 7"]),
        ("io.max", ["8:0 rbps=5 wbps=max riops=max wiops=max", "9:9 rbps=max wbps=max riops=max wiops=3"]),
        ("throttle", ["8:0 77", "9:9 3"]),
        ("oom.group", ["0", "1"]),
        ("weight", ["1", "777"]),
        ("pids.max", ["7", MAX]),
        ("limit_in_bytes", ["4096", "100003840", "-1"]),
        ("memory.min", ["0", "4096"]),
        ("memory.low", ["0", "4096"]),
    ):
        if part in file:
            return texts
    return ["4096", MAX]


def _kill(draw: Draw, world: World) -> None:
    if world.guests:
        del world.guests[draw(st.sampled_from(sorted(world.guests)))]


def _remove_home(draw: Draw, world: World) -> None:
    # The home alone leads to an init that was moved out of it; nobody can find that server without it.
    strays = {name for name, guest in world.guests.items() if not guest.where[HOME]}
    homes = [
        path
        for key, path in world.files
        if key == HOME and path and not world.children(HOME, path) and path.rpartition("/")[2] not in strays
    ]
    if homes:
        group = draw(st.sampled_from(sorted(homes)))
        for name in world.inside(HOME, group):
            del world.guests[name]
        world.forget_group(group)


def _remove_v1_group(draw: Draw, world: World) -> None:
    found = [key for key in world.files if key[0] and key[1] and not world.children(*key)]
    if found:
        hierarchy, group = draw(st.sampled_from(sorted(found)))
        for name in world.inside(hierarchy, group):
            world.guests[name].where[hierarchy] = ""
        del world.files[hierarchy, group], world.owners[hierarchy, group]


def _move_init(draw: Draw, world: World) -> None:
    if world.guests:
        guest = world.guests[draw(st.sampled_from(sorted(world.guests)))]
        guest.where[draw(st.sampled_from(world.hierarchies()[1:] or [HOME]))] = ""


def _edit_mark(draw: Draw, world: World) -> None:
    if world.marks:
        group = draw(st.sampled_from(sorted(world.marks)))
        world.marks[group] = draw(st.sampled_from(["", "no mark", world.marks[group].replace("one", "six")]))


def _lose_record(draw: Draw, world: World) -> None:
    if world.directories:
        world.directories[draw(st.sampled_from(sorted(world.directories)))].applied = None


def _change_disk(draw: Draw, world: World) -> None:
    """The file of an image becomes longer, its file system larger, or all of it is removed."""
    disks = [name for name, each in world.directories.items() if each.disk]
    if disks:
        directory = world.directories[draw(st.sampled_from(sorted(disks)))]
        assert directory.disk
        longer = replace(directory.disk, space=256 * MI)
        directory.disk = draw(st.sampled_from([longer, replace(longer, file_system=256 * MI), None]))


def _lose_directory(draw: Draw, world: World) -> None:
    if world.directories:
        del world.directories[draw(st.sampled_from(sorted(world.directories)))]


def _rename_host(draw: Draw, world: World) -> None:
    if world.guests:
        world.guests[draw(st.sampled_from(sorted(world.guests)))].hostname = "hacked"


def _lower_limit(draw: Draw, world: World) -> None:
    if world.guests:
        world.guests[draw(st.sampled_from(sorted(world.guests)))].limits["nofile"] = (10, 20)


def _break_image(draw: Draw, world: World) -> None:
    if world.images:
        name = draw(st.sampled_from(sorted(world.images)))
        world.images[name] = replace(world.images[name], digest="")


def _pass_less_down(draw: Draw, world: World) -> None:
    """Take a controller from what is below a group; the kernel wants it gone further down first."""
    found = [(group, name) for group, names in world.subtree.items() for name in names]
    if found:
        group, name = draw(st.sampled_from(sorted(found)))
        for path in [path for path in world.subtree if f"{path}/".startswith(f"{group}/") or not group]:
            world.subtree[path].discard(name)
            for child in world.children(HOME, path):
                kept = world.fresh_files(HOME, child)
                old = world.files[HOME, child]
                world.files[HOME, child] = {file: old[file] for file in old if file in kept}


def _reboot(draw: Draw, world: World) -> None:
    world.guests.clear()
    for path in [path for _, path in world.files if path.count("/") == 0 and path]:
        world.forget_group(path)
    world.subtree[""].clear()
    world.networks = Networks(force=world.networks.force, records=world.networks.records)


DRIFTS = (
    _write, _write, _write, _kill, _remove_home, _remove_v1_group, _move_init, _edit_mark, _lose_record,
    _lose_directory, _change_disk, _rename_host, _lower_limit, _break_image, _pass_less_down, _reboot,
    *wishes_networks.DRIFTS,
)  # fmt: skip


def drift(draw: Draw, world: World, most: int = 3) -> None:
    """Up to `most` things that happen to a world behind vsprov's back."""
    for happen in draw(st.lists(st.sampled_from(DRIFTS), max_size=most)):
        happen(draw, world)
