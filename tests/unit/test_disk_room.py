"""Whether what servers have written fits in the disks that they are moved to, and in what pools have left."""

from __future__ import annotations

from pathlib import Path

from vsprov.engine.apply import preflight
from vsprov.errors import Problem
from vsprov.model.limits.encodings import Host
from vsprov.model.limits.resources import read_resources
from vsprov.plan.limits.pool_disk import share_of
from vsprov.plan.observed import Machine, ObservedGroup, ObservedServer
from vsprov.plan.plan import Change, Plan, change
from vsprov.plan.seen_disk import SeenDisk
from vsprov.plan.servers.disk_steps import MoveDisk, Room


def joining(root: Path, name: str, room: Room, files: int = 4, image: SeenDisk | None = None) -> Change:
    """A server with so many files that is moved into the project of a pool that has this room."""
    upper = root / "servers" / name / "upper"
    upper.mkdir(parents=True)
    if image:
        (upper.parent / "disk.img").touch()
    for number in range(files):
        (upper / str(number)).touch()
    paths = (change("status.disk.pool", None, "team", "restart"),)
    steps = (MoveDisk(name, "project", 0, None, "team", room),)
    return Change("Server", name, "update", "restart", "changed", paths, steps=steps)


def problems(root: Path, *changes: Change, **seen: ObservedServer) -> list[str]:
    found = preflight.problems(str(root), Plan(changes), (), seen, lambda image: None)
    return [str(problem) for problem in found if isinstance(problem, Problem)]


def test_the_servers_that_join_a_pool_share_the_inodes_that_are_left(tmp_path: Path) -> None:
    room = (None, 9)
    changes = [joining(tmp_path, name, room) for name in "abc"]
    assert problems(tmp_path, *changes[:2]) == []
    assert problems(tmp_path, *changes) == [
        "Server/c: status.disk.pool: the server uses 4 inodes, but the limit of pool team leaves 1"
    ]


def test_what_is_in_an_image_is_known_from_its_file_system(tmp_path: Path) -> None:
    disk = SeenDisk("image", 64 << 20, used=5 << 20, used_inodes=116)
    server = ObservedServer("a", space=disk)
    fits = joining(tmp_path, "a", (5 << 20, 100), image=disk)
    assert problems(tmp_path, fits, a=server) == []
    for room, told in (
        ((4 << 20, None), "uses 5.0Mi, but the limit of pool team leaves 4.0Mi"),
        ((None, 99), "uses 100 inodes, but the limit of pool team leaves 99"),
    ):
        tight = Change(
            "Server", "a", "update", "restart", "changed", fits.paths,
            steps=(MoveDisk("a", "project", 0, None, "team", room),),
        )  # fmt: skip
        assert problems(tmp_path, tight, a=server) == [f"Server/a: status.disk.pool: the server {told}"]


def test_a_pool_has_left_what_its_limits_exceed_its_use_by() -> None:
    resources = read_resources({"disk": {"space": 1 << 30, "inodes": 1000}})
    seen = SeenDisk("project", 1 << 30, 1000, used=1 << 20, used_inodes=400, attached=True, pools=(7,))
    pools = {"team": ObservedGroup("vt/team", "vt/set", space=seen)}
    machine = Machine(Host(), {})
    assert share_of("team", resources, pools, machine).room == ((1 << 30) - (1 << 20), 600)
    assert share_of("team", read_resources({"disk": {"inodes": 300}}), pools, machine).room == (None, 0)
