"""Servers get another name, by `rename` and by metadata.renamedFrom."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.networks import NetworkLab, idle, network
from tests.e2e.reboot import lose_power
from tests.e2e.verbs import HOST, asked, web
from tests.effort import LONG
from tests.lab import Document, Lab, pool, server, to_yaml


def renamed(document: Document, old: str) -> Document:
    return {**document, "metadata": {**document["metadata"], "renamedFrom": old}}


def status(lab: Lab, name: str) -> Any:
    return json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]


def names(lab: Lab) -> list[str]:
    return lab.vsprov("get", "servers", "-o", "name").stdout.split()


@pytest.mark.vm_subset
def test_a_running_server_keeps_its_files_and_ids_and_is_restarted(lab: Lab) -> None:
    lab.apply(HOST, pool("all"), web(quota="all", resources={"pids": {"max": 20}}))
    lab.shell("all/web1", "echo kept > /root/note; chown 1000 /root/note")
    before = status(lab, "web1")
    after = (HOST, pool("all"), renamed(web("front", quota="all", resources={"pids": {"max": 20}}), "web1"))
    assert lab.differences(*after) == {
        "Server/front /metadata/name": ("web1", "front", "restart"),
        "Server/front /spec/hostname": ("web1", "front", "restart"),
    }
    assert "Server/front: renamed" in lab.converge(*after).stderr
    assert names(lab) == ["Server/front"]
    assert not lab.group("all/web1").exists() and not lab.directory("web1").exists()
    assert lab.shell("all/front", "cat /root/note; stat -c %u /root/note; hostname") == "kept\n1000\nfront\n"
    assert status(lab, "front")["idRange"] == before["idRange"]
    assert lab.limit("all/front", "pids.max") == "20"
    assert lab.is_settled(HOST, pool("all"), web("front", quota="all", resources={"pids": {"max": 20}}))


@pytest.mark.vm_subset
def test_rename_does_it_without_a_manifest_and_renames_dependencies(lab: Lab) -> None:
    needs = [{"name": "db"}, {"name": "other"}]
    lab.apply(HOST, server("db"), server("other", state="Stopped"), web(dependsOn=needs[:1]), web("web2"))
    lab.shell("db", "echo kept > /root/note")
    others = lab.inits("web1", "web2")
    done = lab.vsprov("rename", "db", "data", "-y")
    assert "name: data and renamedFrom: db" in done.stderr
    assert lab.shell("data", "cat /root/note; hostname") == "kept\ndata\n"
    assert lab.inits("web1", "web2") == others
    now = (
        HOST,
        server("data"),
        server("other", state="Stopped"),
        web(dependsOn=[{"name": "data"}]),
        web("web2"),
    )
    assert lab.is_settled(*now)
    lab.vsprov("rename", "server/other", "another", "-y")
    assert status(lab, "another")["state"] == "Stopped" and lab.processes("another") == []


def test_rename_asks_and_says_that_it_restarts(lab: Lab) -> None:
    lab.apply(HOST, web())
    first = lab.init("web1")
    code, shown = asked(lab, ("rename", "web1", "front"), lambda: "n\n")
    assert code == 130 and "metadata.name: " in shown
    assert f"Rename Server/web1 to front on {os.uname().nodename} and restart it?" in shown
    assert lab.init("web1") == first


def test_a_server_that_has_ended_stays_as_it_ended(lab: Lab) -> None:
    once = {"command": ["sh", "-c", "echo ran"], "oneshot": True}
    lab.apply(HOST, web("job", init=once), web("bad", init={"command": ["sh", "-c", "exit 3"]}), check=False)
    lab.wait_until(lambda: lab.processes("job") == [] and lab.processes("bad") == [])
    before = {name: status(lab, name) for name in ("job", "bad")}
    lab.converge(HOST, renamed(web("task", init=once), "job"))
    assert lab.console("task") == "ran\n"
    lab.vsprov("rename", "bad", "worse", "-y")
    for old, new in (("job", "task"), ("bad", "worse")):
        assert status(lab, new)["state"] == before[old]["state"]
        assert status(lab, new)["lastExit"]["code"] == before[old]["lastExit"]["code"]


def test_diff_shows_the_renaming(lab: Lab) -> None:
    lab.apply(HOST, web())
    wanted = HOST, renamed(web("front", resources={"pids": {"max": 20}}), "web1")

    def diff() -> list[str]:
        done = lab.vsprov("diff", "-", input=to_yaml(*wanted), check=False)
        assert (done.returncode, done.stderr) == (int(bool(done.stdout)), "")
        return [line for line in done.stdout.splitlines() if line[0] in "+-"]

    assert diff() == [
        "--- observed/Server/web1",
        "+++ wanted/Server/front",
        "-  name: web1",
        "+  name: front",
        "-  hostname: web1",
        "+  hostname: front",
        "+  resources:",
        "+    pids:",
        "+      max: 20",
    ]
    lab.apply(*wanted)
    assert diff() == []  # although the key is still there


def test_the_name_before_has_no_effect_on_a_new_server(lab: Lab) -> None:
    lab.converge(HOST, renamed(web("front"), "web1"))
    assert names(lab) == ["Server/front"]


@pytest.mark.parametrize(
    ("documents", "code", "said"),
    [
        ((renamed(web("web2"), "web1"),), 1, "both web1 and web2 exist, so web1 cannot be renamed"),
        ((renamed(web("new"), "web1"), web()), 65, "the manifest still has Server/web1"),
        ((renamed(web("a"), "web1"), renamed(web("b"), "web1")), 65, "Server/a is renamed from web1, too"),
        ((renamed(web("web1"), "web1"),), 65, "the manifest still has Server/web1"),
        ((renamed(web("new"), "theirs"),), 1, "server theirs belongs to"),
        ((renamed(pool("p"), "old"),), 65, "renamedFrom"),
    ],
)
def test_what_cannot_be_renamed_is_refused(
    lab: Lab, documents: tuple[Document, ...], code: int, said: str
) -> None:
    lab.apply(HOST, web(state="Stopped"), web("web2", state="Stopped"))
    lab.apply(HOST, web("theirs", state="Stopped"), flags=("--set-name", "b"))
    assert said in lab.refused(HOST, *documents, code=code)
    assert names(lab) == ["Server/theirs", "Server/web1", "Server/web2"]


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("web9", "a", 1, "Server/web9: not found"),
        ("web1", "web2", 1, "Server/web1: rename to web2: Server/web2 exists"),
        ("web1", "all", 1, "Quota/all exists"),
        ("web1", "We_b", 64, "not a name that a server can have"),
        ("web1", "tasks", 64, "not a name that a server can have"),
        ("web1", "web1", 1, "Server/web1 exists"),
    ],
)
def test_rename_refuses_names_that_are_taken_or_no_names(
    lab: Lab, old: str, new: str, code: int, said: str
) -> None:
    lab.apply(HOST, pool("all"), web(state="Stopped"), web("web2", state="Stopped"))
    done = lab.vsprov("rename", old, new, "-y", check=False)
    assert done.returncode == code and said in done.stderr


def test_a_rename_that_fails_leaves_the_server_running_under_its_old_name(lab: Lab) -> None:
    lab.apply(HOST, web())
    lab.shell("web1", "echo kept > /root/note")
    broken = renamed(web("front", init={"command": ["/nothing/here"]}), "web1")
    said = lab.refused(HOST, broken)
    assert "the server was started again as it was before" in said
    assert names(lab) == ["Server/web1"]
    assert lab.shell("web1", "cat /root/note") == "kept\n"
    assert lab.is_settled(HOST, web())


def test_a_rename_that_dies_at_any_step_is_finished_by_the_next_apply(lab: Lab) -> None:
    current, step, done = "web0", 0, False
    lab.apply(HOST, web(current))
    lab.shell(current, "echo kept > /root/note")
    while not done:
        step += 1
        wanted = renamed(web(f"web{step}"), current)
        done = lab.apply(HOST, wanted, check=False, env={"VSPROV_FAIL_AFTER": str(step)}).returncode == 0
        lab.converge(HOST, wanted)
        current = f"web{step}"
        assert names(lab) == [f"Server/{current}"], step
        assert lab.shell(current, "cat /root/note") == "kept\n", step
    assert step > 10


def test_a_renamed_server_keeps_its_mac_and_the_addresses_that_were_chosen_for_it(
    shared_net: NetworkLab,
) -> None:
    lab = shared_net.lab
    lan = network("lan", "10.77.0.0/24")
    lab.apply(HOST, lan, idle("a", "lan"), idle("b", "lan"), idle("c", "lan"))

    def seen(name: str) -> tuple[Any, ...]:
        (one,) = status(lab, name)["interfaces"]
        return one["mac"], one["addresses"]

    before = seen("b")
    documents = (HOST, lan, idle("a", "lan"), renamed(idle("x", "lan"), "b"), idle("c", "lan"))
    lab.converge(*documents)
    assert seen("x") == before
    assert (
        "x" in lab.shell("a", "cat /etc/hosts").split()
        and "b" not in lab.shell("a", "cat /etc/hosts").split()
    )
    lab.vsprov("rename", "x", "y", "-y")
    assert seen("y") == before
    marks = {link["ifalias"].rpartition(":")[2] for link in shared_net.links().values()}
    assert {"y", "a", "c"} <= marks and not {"b", "x"} & marks
    assert lab.is_settled(HOST, lan, idle("a", "lan"), idle("y", "lan"), idle("c", "lan"))
    lab.vsprov("destroy", "-y", "-", input=to_yaml(HOST, lan, *(idle(name, "lan") for name in "ayc")))


def test_a_rename_that_dies_at_any_step_keeps_the_mac(shared_net: NetworkLab) -> None:
    lab, lan = shared_net.lab, network("lan", "10.77.0.0/24")
    step, done = 0, False
    while not done:
        step += 1
        lab.apply(HOST, lan, idle("old", "lan"))
        (before,) = status(lab, "old")["interfaces"]
        wanted = HOST, lan, renamed(idle("new", "lan"), "old")
        done = lab.apply(*wanted, check=False, env={"VSPROV_FAIL_AFTER": str(step)}).returncode == 0
        lab.converge(*wanted)
        (seen,) = status(lab, "new")["interfaces"]
        assert (seen["mac"], seen["addresses"]) == (before["mac"], before["addresses"]), step
        lab.vsprov("delete", "server", "new", "-y")
    assert step > 10
    lab.vsprov("destroy", "-y", "-", input=to_yaml(HOST, lan))


AGAIN = ("rename", "old", "new", "-y")
UNDER_WAY = "trusted.vsprov.renaming"


def is_under_way(lab: Lab) -> bool:
    return UNDER_WAY in os.listxattr(lab.vsprov.root / "servers")


def reboot(lab: Lab) -> None:
    """Take what a reboot takes, and let what is recorded on disk be of an earlier boot."""
    lose_power(lab)
    folder = lab.vsprov.root / "servers"
    if is_under_way(lab):
        this = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
        before = os.getxattr(folder, UNDER_WAY)
        assert before.endswith(this)
        os.setxattr(folder, UNDER_WAY, before.replace(this, b"00000000-0000-4000-8000-000000000000"))


NEXT = (AGAIN, ("keeper", "act"), ("start", "other"))


@pytest.mark.parametrize("shift", range(len(NEXT)) if LONG else [0])
def test_a_rename_by_command_that_dies_at_any_step_is_finished_by_the_next_command(
    lab: Lab, shift: int
) -> None:
    other = web("other", dependsOn=[{"name": "new"}])
    step, died = 0, True
    while died:
        step += 1
        lab.apply(HOST, web("old"), web("other", dependsOn=[{"name": "old"}]))
        lab.shell("old", "echo kept > /root/note")
        before = lab.init("other")
        done = lab.vsprov(*AGAIN, check=False, env={"VSPROV_FAIL_AFTER": str(step)})
        died = done.returncode != 0
        assert done.returncode in (0, -signal.SIGKILL)
        if died:
            lab.vsprov(*NEXT[(step + shift) % len(NEXT)])
        assert names(lab) == ["Server/new", "Server/other"], step
        assert lab.shell("new", "cat /root/note; hostname") == "kept\nnew\n", step
        assert lab.is_settled(HOST, web("new"), other) and lab.init("other") == before
        assert not is_under_way(lab)
        lab.vsprov("delete", "server", "new", "other", "-y")
    assert step > 10


def test_a_server_that_does_not_run_is_not_started_by_the_end_of_its_rename(lab: Lab) -> None:
    step, died = 0, True
    while died:
        step += 1
        lab.apply(HOST, web("old", state="Stopped"))
        done = lab.vsprov(*AGAIN, check=False, env={"VSPROV_FAIL_AFTER": str(step)})
        died = done.returncode != 0
        lab.apply(HOST)
        assert names(lab) == ["Server/new"]
        assert lab.processes("new") == [] and lab.is_settled(HOST, web("new", state="Stopped"))
        lab.vsprov("delete", "server", "new", "-y")
    assert step > 3


@pytest.mark.parametrize("following", [("boot",), ("start", "other"), AGAIN])
def test_after_a_reboot_the_next_command_finishes_a_rename_and_boot_decides_what_starts(
    lab: Lab, following: tuple[str, ...]
) -> None:
    step, died = 0, True
    while died:
        step += 2
        lab.apply(HOST, web("old"), web("other", dependsOn=[{"name": "old"}]))
        lab.shell("old", "echo kept > /root/note")
        died = lab.vsprov(*AGAIN, check=False, env={"VSPROV_FAIL_AFTER": str(step)}).returncode != 0
        reboot(lab)
        lab.vsprov(*following, check=died)  # nothing is left to do for another rename
        assert not is_under_way(lab)
        lab.vsprov("boot")
        other = web("other", dependsOn=[{"name": "new"}])
        assert lab.is_settled(HOST, web("new"), other), step
        assert lab.shell("new", "cat /root/note; hostname") == "kept\nnew\n", step
        lab.vsprov("delete", "server", "new", "other", "-y")
    assert step > 10


def test_a_server_that_does_not_start_with_the_host_is_renamed_after_a_reboot_and_stays_down(
    lab: Lab,
) -> None:
    lab.apply(HOST, web("old", boot={"autostart": False}))
    assert lab.vsprov(*AGAIN, check=False, env={"VSPROV_FAIL_AFTER": "3"}).returncode == -signal.SIGKILL
    reboot(lab)
    lab.vsprov("boot")
    assert names(lab) == ["Server/new"] and lab.processes("new") == []
    lab.vsprov("start", "new")
    assert lab.is_settled(HOST, web("new", boot={"autostart": False}))


def test_a_rename_that_dies_twice_still_starts_the_server(lab: Lab) -> None:
    lab.apply(HOST, web("old"))
    for step in ("4", "2"):
        env = {"VSPROV_FAIL_AFTER": step}
        assert lab.vsprov(*AGAIN, check=False, env=env).returncode == -signal.SIGKILL
    lab.vsprov("keeper", "act")
    assert lab.is_settled(HOST, web("new")) and lab.shell("new", "hostname") == "new\n"


def test_an_interrupted_rename_that_cannot_be_finished_is_reported_once(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    lab.apply(HOST, web("old", mounts=[{"type": "bind", "source": str(source), "target": "/srv"}]))
    env = {"VSPROV_FAIL_AFTER": "2"}
    assert lab.vsprov(*AGAIN, check=False, env=env).returncode == -signal.SIGKILL
    source.rmdir()
    done = lab.apply(HOST)
    assert str(source) in done.stderr
    assert lab.processes("old") == [] and names(lab) == ["Server/old"]
    assert str(source) not in lab.apply(HOST).stderr
    source.mkdir()
    lab.vsprov("start", "old")


def test_the_hooks_of_a_stop_run_under_the_old_name_and_those_of_a_start_under_the_new_one(
    lab: Lab, tmp_path: Path
) -> None:
    def told(hook: str) -> list[dict[str, Any]]:
        return [{"exec": ["/bin/sh", "-c", f'echo {hook} "$VSPROV_SERVER" >> {tmp_path}/told']}]

    hooks = {hook: told(hook) for hook in ("preStart", "preStop", "postStop")}
    lab.apply(HOST, web(hooks=hooks))
    lab.converge(HOST, renamed(web("front", hooks=hooks), "web1"))
    assert (tmp_path / "told").read_text().splitlines() == [
        "preStart web1",
        "preStop web1",
        "postStop web1",
        "preStart front",
    ]


def test_a_server_that_waits_to_be_restarted_can_be_renamed(lab: Lab) -> None:
    waiting = {"restart": {"policy": "always", "delay": "1h", "maxDelay": "1h"}}
    lab.apply(HOST, web(**waiting), web("other"))
    lab.vsprov("kill", "web1")
    lab.converge(HOST, renamed(web("front", **waiting), "web1"), web("other"))
    assert lab.init("front") and names(lab) == ["Server/front", "Server/other"]
