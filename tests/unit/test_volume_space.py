"""Limits of volumes in plans: what differs, the step that changes it, and what is refused meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.wishes import DISKS, V2
from vsprov.model import fields
from vsprov.model.kinds.volume import Volume
from vsprov.plan.observed import Machine
from vsprov.plan.seen_disk import SeenDisk
from vsprov.plan.step import Step
from vsprov.plan.volumes import space
from vsprov.plan.volumes.space import SpaceDelta
from vsprov.plan.volumes.state import UNLIMITED, ObservedVolume, Space
from vsprov.plan.volumes.steps import MoveVolume, ResizeVolume

MI = 1 << 20
BOUNDED = replace(V2, ceilings={"nofile": 4096})  # without CAP_SYS_RESOURCE
QUOTAS = replace(V2, disks=DISKS | {"project": ""})
LIMITED = Volume(size=64 * MI)
SMALLER, LARGER = Volume(size=32 * MI), Volume(size=128 * MI)


def image(size: int = 64, used: int = 10, **more: Any) -> SeenDisk:
    return SeenDisk("image", size * MI, None, used * MI, 20, 1000, size * MI, **more)


def quota(size: int = 64, inodes: int | None = None) -> SeenDisk:
    return SeenDisk("project", size * MI, inodes, 10 * MI, 20, inodes or 0, size * MI, True)


def compare(
    before: Volume,
    now: Volume,
    disk: SeenDisk | None,
    *users: str,
    machine: Machine = V2,
    empty: bool = False,
) -> SpaceDelta:
    seen = ObservedVolume("v", "vsprov/mine", {"spec": fields.write(before)}, empty=empty, space=disk)
    return space.compare("Volume/v", now, seen, machine, users)


def resized(before: Space, after: Space, live: bool) -> ResizeVolume:
    return ResizeVolume("v", before, after, live)


def moved(before: Space, after: Space) -> MoveVolume:
    return MoveVolume("v", before, after)


def paths(delta: SpaceDelta) -> list[tuple[str, str, str]]:
    return [(one.path, *one.shown) for one in delta.paths]


def test_a_limit_that_is_there_needs_nothing() -> None:
    assert compare(LIMITED, LIMITED, image()) == SpaceDelta()
    assert compare(Volume(), Volume(), None) == SpaceDelta()
    assert compare(Volume(), Volume(size="max"), None) == SpaceDelta()


@pytest.mark.parametrize(
    ("before", "now", "disk", "machine", "step"),
    [
        (LIMITED, SMALLER, image(), V2, resized(Space("image", 64 * MI), Space("image", 32 * MI), False)),
        (LIMITED, LARGER, image(attached=True), V2,
         resized(Space("image", 64 * MI), Space("image", 128 * MI), True)),
        (LIMITED, LARGER, image(attached=True), BOUNDED,
         resized(Space("image", 64 * MI), Space("image", 128 * MI), False)),
        (LIMITED, LIMITED, image(128), V2,
         resized(Space("image", 128 * MI), Space("image", 64 * MI), False)),
        (Volume(), LIMITED, None, V2, moved(UNLIMITED, Space("image", 64 * MI))),
        (LIMITED, Volume(), image(), V2, moved(Space("image", 64 * MI), UNLIMITED)),
        (LIMITED, Volume(size=64 * MI, inodes=500), image(), V2,
         moved(Space("image", 64 * MI), Space("image", 64 * MI, 500))),
        (LIMITED, LARGER, quota(), QUOTAS,
         resized(Space("project", 64 * MI), Space("project", 128 * MI), True)),
        (LIMITED, Volume(), quota(), QUOTAS, resized(Space("project", 64 * MI), Space("project"), True)),
        (LIMITED, LIMITED, None, QUOTAS, resized(Space("project"), Space("project", 64 * MI), True)),
        (Volume(), LIMITED, None, QUOTAS, moved(UNLIMITED, Space("project", 64 * MI))),
        (LIMITED, Volume(size=64 * MI, backend="image"), quota(), QUOTAS,
         moved(Space("project", 64 * MI), Space("image", 64 * MI))),
    ],
    ids=["shrink", "grow", "grow, without the capability", "made longer by hand", "first limit", "no limit",
         "inodes of an image", "quota", "no quota", "lost quota", "first quota", "another backend"],
)  # fmt: skip
def test_the_step_that_changes_a_limit(
    before: Volume, now: Volume, disk: SeenDisk | None, machine: Machine, step: Step
) -> None:
    delta = compare(before, now, disk, machine=machine)
    assert (delta.step, delta.problems) == (step, ())
    undone = step.undo()
    assert undone is None or undone.undo() == step


def test_a_quota_group_takes_a_copy_even_of_an_empty_volume_and_limits_no_inodes() -> None:
    groups = replace(V2, disks=DISKS | {"qgroup": ""})
    delta = compare(Volume(), LIMITED, None, machine=groups, empty=True)
    assert delta.step == moved(UNLIMITED, Space("qgroup", 64 * MI))
    group = SeenDisk("qgroup", 64 * MI, None, 10 * MI, None, None, 64 * MI, True)
    assert compare(LIMITED, LARGER, group, "a", machine=groups).problems == ()
    lifted = compare(LIMITED, Volume(), group, "a", machine=groups)
    assert lifted.step == resized(Space("qgroup", 64 * MI), Space("qgroup"), True)
    (problem,) = compare(LIMITED, Volume(size=64 * MI, inodes=5), group, machine=groups).problems
    assert problem.path == "spec.inodes" and "btrfs does not count them" in problem.message


def test_an_empty_volume_gets_a_quota_without_a_copy() -> None:
    delta = compare(Volume(), LIMITED, None, machine=QUOTAS, empty=True)
    assert isinstance(delta.step, ResizeVolume) and paths(delta) == [("spec.size", "—", "64Mi")]


@pytest.mark.parametrize(
    ("before", "now", "disk", "machine", "said"),
    [
        (LIMITED, SMALLER, image(attached=True), V2, "64Mi → 32Mi: the file system of an image shrinks only"),
        (LIMITED, SMALLER, image(attached=True), V2, "Server/b; it contains 10.0Mi"),
        (LIMITED, LARGER, image(attached=True), BOUNDED, "64Mi → 128Mi: growing a mounted file system req"),
        (Volume(), LIMITED, None, V2, "its files have to be copied, which is not possible"),
        (LIMITED, Volume(), image(attached=True), V2, "its files have to be copied"),
    ],
    ids=["shrink", "shrink, with the figure", "grow", "first limit", "no limit"],
)  # fmt: skip
def test_what_is_refused_while_servers_use_the_volume(
    before: Volume, now: Volume, disk: SeenDisk | None, machine: Machine, said: str
) -> None:
    delta = compare(before, now, disk, "a", "b", machine=machine)
    (problem,) = delta.problems
    assert said in problem.message and "mounted by Server/a, Server/b" in problem.message
    assert {path.cost for path in delta.paths} == {"restart"}
    assert "vsprov stop a b" in problem.hint and problem.path == "spec.size"


def test_what_is_live_is_not_refused() -> None:
    delta = compare(LIMITED, LARGER, image(attached=True), "a")
    assert delta.problems == () and [path.cost for path in delta.paths] == ["live"]
    assert compare(LIMITED, SMALLER, quota(), "a", machine=QUOTAS).problems == ()


def test_a_limit_below_what_is_used_is_refused_with_the_figure() -> None:
    (problem,) = compare(LIMITED, SMALLER, image(used=40)).problems
    assert problem.message == "32Mi is less than what the volume contains, 40.0Mi"
    (problem,) = compare(
        Volume(size=64 * MI, inodes=500), Volume(size=64 * MI, inodes=10), quota(inodes=500), machine=QUOTAS
    ).problems
    assert problem.message == "10 is less than what the volume contains, 20"


def test_a_backend_that_the_host_lacks_and_an_image_without_a_size_are_refused() -> None:
    given, (problem,) = space.create("Volume/v", Volume(size=64 * MI, backend="project"), V2)
    assert given.backend == "project" and "project is not supported by this host" in problem.message
    _, (problem,) = space.create("Volume/v", Volume(inodes=500, backend="image"), V2)
    assert problem.path == "spec.size"
    none = replace(V2, disks=dict.fromkeys(DISKS, "not here"))
    _, (problem,) = space.create("Volume/v", LIMITED, none)
    assert "this host cannot limit volumes" in problem.message and problem.lack


def test_what_is_shown_are_the_limits_of_now() -> None:
    assert space.shown({"size": 64 * MI, "exclusive": False}, image(128)) == {
        "size": 128 * MI, "exclusive": False,
    }  # fmt: skip
    assert space.shown({"size": 64 * MI, "exclusive": False}, None) == {"exclusive": False}
    damaged = SeenDisk("image", 0, problem="no file system")
    assert space.shown({"size": 64 * MI}, damaged) == {"size": 64 * MI}
