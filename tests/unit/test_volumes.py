"""Volumes in plans: what is mounted live, what takes a restart, and what is never removed by accident."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.wishes import V2
from vsprov.engine.volumes.mounted import Found, VolumeMounts
from vsprov.manifest.load import load_documents
from vsprov.model import fields
from vsprov.model.kinds.sections.mounts import Mount
from vsprov.model.kinds.sections.security import Security
from vsprov.model.kinds.server import Server
from vsprov.plan.aspects.aspect import Running
from vsprov.plan.aspects.mounts import ChangeVolume, MountedVolume, compare, show
from vsprov.plan.builder import EVERY_SET, Wanted
from vsprov.plan.observed import Observed
from vsprov.plan.plan import Plan
from vsprov.plan.reconcile import reconcile
from vsprov.plan.volumes.state import ObservedVolume
from vsprov.plan.volumes.steps import RemoveVolume
from vsprov.store.instance import Instance

TMPFS = Mount(type="tmpfs", target="/data/inner")


def at(target: str, source: str = "v", **more: Any) -> Mount:
    return Mount(type="volume", source=source, target=target, **more)


def differences(
    recorded: tuple[Mount, ...], wanted: tuple[Mount, ...], *seen: MountedVolume, **spec: Any
) -> list[tuple[str, Any, Any, str, ChangeVolume | None]]:
    server = Server(image="i", hostname="a", mounts=wanted, **spec)
    before = {"mounts": [fields.write(one) for one in recorded]}
    found = compare(Running("a", server, before, seen, V2))
    return [(one.path.path, one.path.before, one.path.after, one.path.cost, one.step) for one in found]


@pytest.mark.parametrize(
    ("recorded", "wanted", "seen", "before", "after"),
    [
        ((), (at("/d"),), (), (), ("v", "rw")),
        ((at("/d"),), (), (MountedVolume("/d", "v"),), ("v", "rw"), ()),
        ((at("/d"),), (at("/d"),), (), (), ("v", "rw")),
        ((at("/d"),), (at("/d", read_only=True),), (MountedVolume("/d", "v"),), ("v", "rw"), ("v", "ro")),
        ((at("/d"),), (at("/d", "w"),), (MountedVolume("/d", "v"),), ("v", "rw"), ("w", "rw")),
        ((), (), (MountedVolume("/d", "v"),), ("v", "rw"), ()),
    ],
    ids=["new", "gone", "unmounted by hand", "read-only", "another one", "left by a crash"],
)
def test_a_volume_that_differs_from_what_is_mounted_is_one_live_step(
    recorded: tuple[Mount, ...], wanted: tuple[Mount, ...], seen: Any, before: Any, after: Any
) -> None:
    if not recorded and not wanted:
        wanted = recorded = (TMPFS,)  # an aspect without any mounts is not looked at
    ((path, _, _, cost, step),) = differences(recorded, wanted, *seen)
    assert (path, cost) == ("spec.mounts[/d]", "live")
    assert step == ChangeVolume("a", "/d", before, after)
    assert step is not None and step.undo() == ChangeVolume("a", "/d", after, before)


@pytest.mark.parametrize(
    ("recorded", "wanted", "seen", "spec"),
    [
        ((), (at("/data"),), (), {"security": Security(read_only_root=True)}),
        ((TMPFS,), (at("/data"), TMPFS), (), {}),
        ((at("/data"), TMPFS), (TMPFS,), (MountedVolume("/data", "v"),), {}),
        ((TMPFS,), (at("/data/inner"),), (), {}),
    ],
    ids=["read-only root", "mount below", "unmount below", "another type"],
)
def test_what_takes_a_restart_has_no_live_step(
    recorded: tuple[Mount, ...], wanted: tuple[Mount, ...], seen: Any, spec: Any
) -> None:
    found = differences(recorded, wanted, *seen, **spec)
    assert found and all((cost, step) == ("restart", None) for _, _, _, cost, step in found)


def test_other_mounts_are_compared_with_the_record() -> None:
    before, after = (Mount(type="tmpfs", target="/t", size=size) for size in (1 << 20, 1 << 21))
    assert [one[:4] for one in differences((before,), (after,))] == [
        ("spec.mounts[/t].size", 1 << 20, 1 << 21, "restart")
    ]
    assert differences((before,), (before,)) == []


def test_a_volume_that_is_as_wanted_but_not_as_recorded_changes_the_record_alone() -> None:
    mounted = MountedVolume("/d", "new")
    assert differences((at("/d", "old"),), (at("/d", "new"),), mounted) == [
        ("spec.mounts[/d]", "volume old", "volume new", "live", None)
    ]


def test_the_spec_that_is_shown_has_the_volumes_that_are_mounted() -> None:
    spec = {"mounts": [fields.write(one) for one in (at("/a"), at("/b"), TMPFS)]}
    shown = show(spec, (MountedVolume("/a", "v", read_only=True),), frozenset())
    assert [(one["target"], one["readOnly"]) for one in shown["mounts"]] == [
        ("/a", True),
        ("/data/inner", False),
    ]


def test_a_mount_at_another_path_belongs_to_the_target_that_has_none() -> None:
    known = VolumeMounts(Instance("none", "/nowhere"))
    here, there, left = (Found("v", point, 1, False) for point in ("/a", "/run/b", "/c"))
    spec = {"mounts": [fields.write(one) for one in (at("/a"), at("/var/run/b"), TMPFS)]}
    assert known.by_target([here, there, left], spec) == {"/a": here, "/var/run/b": there, "/c": left}
    assert known.mounted(1, spec) == ()  # the instance has no volumes


# -- removal


def removal(empty: bool = True, protected: bool = False, **more: Any) -> Plan:
    """The plan of a destroy of everything, with one volume."""
    annotations = {"vsprov/deletion": "prevent"} if protected else {}
    record = {"spec": {"exclusive": False}, "labels": {}, "annotations": annotations}
    seen = Observed(more={"Volume": {"v": ObservedVolume("v", "vsprov/mine", record, 1.0, empty)}})
    wanted = Wanted("vsprov", f"vsprov/{EVERY_SET}", remove=frozenset(("Volume/v",)), **more)
    return reconcile(wanted, seen, V2)


@pytest.mark.parametrize(
    ("empty", "more", "removed", "problems"),
    [
        (True, {}, False, 0),
        (False, {}, False, 0),
        (True, {"volumes": True}, True, 0),
        (False, {"volumes": True}, False, 1),
        (True, {"delete_data": frozenset("v")}, True, 0),
        (False, {"delete_data": frozenset("v")}, True, 0),
        (False, {"delete_data": frozenset("w")}, False, 1),
    ],
)
def test_a_volume_is_removed_on_request_and_one_with_data_by_its_name(
    empty: bool, more: dict[str, Any], removed: bool, problems: int
) -> None:
    plan = removal(empty, **more)
    steps = [step for change in plan.changes for step in change.steps]
    assert steps == ([RemoveVolume("v", data="delete_data" in more)] if removed else [])
    assert len(plan.problems) == problems
    kept = not removed and "volumes" not in more
    assert bool(plan.notes.get("Volume/v")) == kept


def test_a_protected_volume_is_a_problem_also_if_it_is_named() -> None:
    plan = removal(protected=True, delete_data=frozenset("v"))
    assert plan.empty and "vsprov/deletion: prevent" in plan.problems[0].message


# -- sharing


def documents(*users: str, exclusive: bool = True) -> Wanted:
    made: list[dict[str, Any]] = [
        {"kind": "Image", "metadata": {"name": "i"}, "spec": {"source": {"host": {}}}},
        {
            "kind": "Volume",
            "metadata": {"name": "v"},
            "spec": {"exclusive": exclusive, "source": {"image": {"name": "i", "path": "/etc"}}},
        },
    ]
    for name in users:
        mounts = [{"type": "volume", "source": "v", "target": target} for target in ("/a", "/b")]
        spec = {"image": "i", "init": {"command": ["/x"]}, "mounts": mounts}
        made.append({"kind": "Server", "metadata": {"name": name}, "spec": spec})
    objects = load_documents([{"apiVersion": "vsprov/v1", **one} for one in made]).objects
    return Wanted("vsprov", "vsprov/mine", objects, {"i": "sha256:1"})


def test_one_server_may_mount_an_exclusive_volume_twice_and_two_servers_may_not() -> None:
    assert reconcile(documents("a"), Observed(), V2).problems == ()
    assert reconcile(documents("a", "b", exclusive=False), Observed(), V2).problems == ()
    (problem,) = reconcile(documents("a", "b"), Observed(), V2).problems
    assert (problem.subject, problem.path) == ("Volume/v", "spec.exclusive")
    assert problem.message == "exclusive, but mounted by Server/a, Server/b"


def test_a_server_waits_for_its_volume_and_a_volume_for_the_image_of_its_source() -> None:
    plan = reconcile(documents("a"), Observed(), V2)
    after = {change.address: change.after for change in plan.changes}
    assert "Volume/v" in after["Server/a"] and "Image/i" in after["Volume/v"]
