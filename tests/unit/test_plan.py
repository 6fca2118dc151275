"""Order, paths and costs: what a plan promises about itself."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.simulate import World, apply
from tests.unit.wishes import V1, V2
from vsprov.engine.apply import execute as _execute  # noqa: F401  it registers all of them
from vsprov.engine.apply import register
from vsprov.manifest.schema import document_schema
from vsprov.model.cost import COSTS
from vsprov.model.kinds.image import Image
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.sections.dependencies import Dependency
from vsprov.model.kinds.sections.init import Init
from vsprov.model.kinds.sections.mounts import Mount
from vsprov.model.kinds.sections.security import CapabilityChange, Security
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.model.sources import HostSource, Source
from vsprov.model.traits import cost_of
from vsprov.plan.builder import Wanted
from vsprov.plan.compare import applied, diff
from vsprov.plan.observed import Machine
from vsprov.plan.plan import PathChange
from vsprov.plan.reconcile import reconcile
from vsprov.plan.steps import Spawn, Step

IMAGE = Object(kind="Image", name="i", spec=Image(source=Source(host=HostSource())))


def server(name: str, *after: str, **more: Any) -> Object:
    depends = tuple(Dependency(name=other) for other in after)
    spec = Server(image="i", hostname=name, init=Init(command=("/x",)), depends_on=depends, **more)
    return Object(kind="Server", name=name, spec=spec)


def wanted(*objects: Object, **more: Any) -> Wanted:
    return Wanted("vsprov", "vsprov/mine", (IMAGE, *objects), {"i": "sha256:1"}, **more)


def test_a_chain_longer_than_pythons_stack_is_put_in_order() -> None:
    names = [f"s{i}" for i in range(1500)]
    chain = [server(name, *names[i + 1 : i + 2]) for i, name in enumerate(names)]
    plan = reconcile(wanted(*chain), World(V2).observe(), V2)
    spawned = [step.server for change in plan.changes for step in change.steps if isinstance(step, Spawn)]
    assert spawned == names[::-1]


def test_a_server_that_moves_to_a_new_pool_as_it_stops_waits_for_the_pool() -> None:
    world = World(V2)
    old = Object(kind="Quota", name="old", spec=Quota(scope="pool", resources={"cpu.weight": 1}))
    one = wanted(old, server("a", quota="old"))
    apply(reconcile(one, world.observe(), V2), one, world)
    wide, new = (Object(kind="Quota", name=name, spec=Quota(scope="pool")) for name in ("old", "new"))
    two = wanted(wide, new, server("a", quota="new", state="Stopped"))
    plan = reconcile(two, world.observe(), V2)
    (moved,) = (change for change in plan.changes if change.address == "Server/a")
    assert moved.after == ("Quota/new",)
    apply(plan, two, world)
    assert reconcile(two, world.observe(), V2).empty


def test_servers_that_were_told_one_by_one_to_follow_each_other_can_be_removed() -> None:
    world = World(V2)
    for each in (wanted(server("a"), server("b", "a")), wanted(server("b"), server("a", "b"))):
        apply(reconcile(each, world.observe(), V2), each, world)
    record = applied.record(server("b", "a"), "sha256:1")
    world.directories["b"].applied = applied.to_text(record)
    world.marks["vsprov/b"] = applied.seal(applied.to_text(record))
    gone = wanted(remove=frozenset(["Server/a", "Server/b"]))
    plan = reconcile(gone, world.observe(), V2)
    assert [(change.key, change.after) for change in plan.changes] == [
        ("Server/b", ()),
        ("Server/a", ("Server/b",)),
        ("Host/vsprov", ("Server/a", "Server/b")),
    ]
    apply(plan, gone, world)
    assert world.directories == {}


def test_a_group_above_all_that_a_dead_destroy_left_is_removed_by_the_next() -> None:
    world = World(V2)
    first = wanted(server("a"))
    apply(reconcile(first, world.observe(), V2), first, world)
    gone = Wanted("vsprov", "vsprov/mine", remove=frozenset(["Server/a", "Image/i"]))
    plan = reconcile(gone, world.observe(), V2)
    apply(plan, gone, world, sum(len(change.steps) for change in plan.changes) - 1)
    assert ("", "vsprov") in world.files
    left = reconcile(gone, world.observe(), V2)
    assert [change.key for change in left.changes] == ["Host/vsprov"]
    apply(left, gone, world)
    assert ("", "vsprov") not in world.files


def test_a_payload_group_that_a_dead_apply_did_not_come_to_is_made_by_the_next() -> None:
    world = World(V2)
    want = wanted(server("a"))
    plan = reconcile(want, world.observe(), V2)
    steps = [type(step).__name__ for change in plan.changes for step in change.steps]
    apply(plan, want, world, steps.index("MakePayload"))
    assert ("", "vsprov/a") in world.files and "vsprov/a" not in world.payloads
    again = reconcile(want, world.observe(), V2)
    assert "MakePayload" in [type(step).__name__ for change in again.changes for step in change.steps]
    apply(again, want, world)
    assert world.guests["a"].released


def test_a_server_whose_directory_is_lost_does_not_count_while_it_is_removed() -> None:
    world = World(V2)
    first = wanted(server("a", resources={"cpu.weight": 1000}), server("b"))
    apply(reconcile(first, world.observe(), V2), first, world)
    del world.directories["a"]
    second = wanted(server("b", resources={"cpu.reservation": 2000}), prune=True)
    apply(reconcile(second, world.observe(), V2), second, world)
    assert world.files["", "vsprov/b"]["cpu.weight"] == "128"
    assert reconcile(second, world.observe(), V2).empty


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("spec.resources.memory.max", "/spec/resources/memory/max"),
        ("spec.mounts[/srv/a.b].readOnly", "/spec/mounts/~1srv~1a.b/readOnly"),
        ("spec.mounts[/odd]name].type", "/spec/mounts/~1odd]name/type"),
        ("metadata.labels.app.kubernetes.io/name", "/metadata/labels/app.kubernetes.io~1name"),
        ("metadata.annotations.a~b", "/metadata/annotations/a~0b"),
    ],
)
def test_a_path_is_a_json_pointer(path: str, pointer: str) -> None:
    assert PathChange(path, 1, 2, "live").pointer == pointer


def test_every_key_of_a_server_has_a_cost() -> None:
    keys = document_schema("Server")["properties"]["spec"]["properties"]
    assert {"mounts", "dependsOn", "init", "resources", "ephemeral"} <= set(keys)
    for key in keys:
        assert cost_of(Server, key) in COSTS
    assert cost_of(Server, "init.env.A") == "restart" and cost_of(Server, "init.stopTimeout") == "live"
    with pytest.raises(KeyError):
        cost_of(Server, "unheard-of")


def test_every_step_of_a_plan_can_be_carried_out_and_described() -> None:
    for module in register.LATE.values():
        import_module(module)
    assert len(register.FUNCTIONS) >= 30
    register.refuse_missing()
    for kind in register.FUNCTIONS:
        assert kind.describe is not Step.describe, kind


def test_a_step_that_nothing_carries_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(register.FUNCTIONS, Spawn)
    with pytest.raises(TypeError, match=r"no function of vsprov\.engine carries out Spawn"):
        register.refuse_missing()


STANDARD: dict[str, Any] = {"resources": {"memory.max": 2**20, "rlimits.nofile": (5, 5)}}


@pytest.mark.parametrize(
    ("change", "cost"),
    [
        ({"resources": {"memory.max": 2**21, "rlimits.nofile": (5, 5)}}, "live"),
        ({"resources": {"rlimits.nofile": (9, 9)}}, "live"),
        ({"hostname": "b"}, "live"),
        ({"depends_on": (Dependency(name="z"),)}, "live"),
        ({"init": Init(command=("/x",), stop_signal="INT")}, "live"),
        ({"init": Init(command=("/x",), stop_timeout=1)}, "live"),
        ({"init": Init(command=("/y",))}, "restart"),
        ({"init": Init(command=("/x",), env={"A": "b"})}, "restart"),
        ({"init": Init(command=("/x",), user="1:1")}, "restart"),
        ({"init": Init(command=("/x",), reaper=True)}, "restart"),
        ({"mounts": (Mount(type="tmpfs", target="/t"),)}, "restart"),
        ({"security": Security(read_only_root=True)}, "restart"),
        ({"security": Security(capabilities=CapabilityChange(add=("NET_RAW",)))}, "restart"),
        ({"image": "j"}, "restart"),
        ({"quota": "p"}, "restart"),
        ({"ephemeral": True}, "recreate"),
        ({"state": "Stopped"}, "none"),
    ],
    ids=str,
)
@pytest.mark.parametrize("machine", [V1, V2], ids=["v1", "v2"])
def test_a_change_costs_exactly_this(machine: Machine, change: dict[str, Any], cost: str) -> None:
    others = (
        Object(kind="Image", name="j", spec=Image(source=Source(host=HostSource()))),
        Object(kind="Quota", name="p", spec=Quota(scope="pool")),
        server("z"),
    )
    world = World(machine)
    digests = {"i": "sha256:1", "j": "sha256:2"}
    before = replace(wanted(server("a", **STANDARD), *others), digests=digests)
    apply(reconcile(before, world.observe(), machine), before, world)
    pids = {name: guest.pid for name, guest in world.guests.items()}
    one = server("a", **STANDARD)
    assert isinstance(one.spec, Server)
    after = replace(wanted(replace(one, spec=replace(one.spec, **change)), *others), digests=digests)
    plan = reconcile(after, world.observe(), machine)
    assert [(c.address, c.cost) for c in plan.objects] == [("Server/a", cost)]
    assert plan.summary()["restart"] == (cost == "restart")
    apply(plan, after, world)
    again = {name: guest.pid for name, guest in world.guests.items()}
    assert again["z"] == pids["z"]
    assert (again.get("a") == pids["a"]) == (cost == "live")
    assert ("a" in again) == (change.get("state") != "Stopped")


@pytest.mark.parametrize("target", ["/a", "/a.b", "/a]b", "/a[b]c.d"])
def test_an_odd_mount_target_has_a_cost_too(target: str) -> None:
    (path, *_), *_ = diff.differences({}, {"mounts": [{"target": target, "type": "tmpfs"}]})
    assert cost_of(Server, diff.row_of(path)) == "restart"


def test_a_mark_that_was_edited_is_not_believed() -> None:
    text = applied.to_text(applied.record(server("a"), "sha256:1"))
    mark = applied.seal(text)
    assert applied.unseal(mark, None) == text
    assert applied.unseal(mark.replace("sha256:1", "sha256:2"), None) is None
    assert applied.unseal(None, text) is None


def test_a_record_too_long_for_a_mark_is_on_disk_and_the_mark_says_which() -> None:
    text = applied.to_text({"spec": {"x": "y" * applied.LONGEST_MARK}})
    mark = applied.seal(text)
    assert len(mark) < 100
    assert applied.unseal(mark, text) == text
    assert applied.unseal(mark, text + " ") is None
    assert applied.unseal(mark, None) is None


def test_a_record_describes_the_server_it_was_made_of() -> None:
    want = replace(server("a", "b", ephemeral=True), labels={"tier": "web"}, annotations={"note": "x"})
    record = applied.record(want, "sha256:1")
    assert applied.to_object("a", applied.from_text(applied.to_text(record))) == want
