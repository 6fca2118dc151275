"""The verbs on the kernel of this machine: what they print, how they end, and what they leave alone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.lab import (
    SECONDS,
    Document,
    Lab,
    busybox_image,
    image,
    own_mounts,
    pool,
    quota,
    server,
    status,
    to_yaml,
)

CHECKOUT = Path(__file__).resolve().parent.parent.parent
HOST = image("host")
TICKER = 'i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 0.05; done'


def web(name: str = "web1", **spec: Any) -> Document:
    return server(name, labels={"tier": "web"}, **spec)


def on_a_terminal(lab: Lab, *words: str, typed: str = "", when: str = "") -> tuple[int, str]:
    """(exit code, what was shown) of a command line on a terminal; `typed` is typed when `when` is seen."""
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        lab.vsprov.command(*words),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**lab.vsprov.environment, "TERM": "xterm", "NO_COLOR": "", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that ^C reaches it
    )
    os.close(follower)
    shown, left = b"", typed.encode()
    while select.select([leader], [], [], SECONDS)[0]:
        try:
            shown += os.read(leader, 65536)
        except OSError as error:
            assert error.errno == errno.EIO  # nobody has the terminal any more
            break
        if left and when.encode() in shown:
            os.write(leader, left)
            left = b""
    os.close(leader)
    return running.wait(SECONDS), shown.decode(errors="replace").replace("\r\n", "\n")


# -- plan, apply


def test_plan_tells_by_its_exit_code_whether_there_are_changes(lab: Lab) -> None:
    text = to_yaml(HOST, web())
    assert lab.vsprov("plan", "-", input=text).returncode == 0
    assert lab.vsprov("plan", "--detailed-exitcode", "-", input=text, check=False).returncode == 2
    assert lab.vsprov("apply", "-y", "--detailed-exitcode", "-", input=text, check=False).returncode == 2
    assert lab.vsprov("plan", "--detailed-exitcode", "-", input=text).returncode == 0
    assert lab.vsprov("apply", "--detailed-exitcode", "-", input=text).returncode == 0
    broken = text.replace("infinity", "").replace('"command"', '"comand"')
    assert lab.vsprov("plan", "--detailed-exitcode", "-", input=broken, check=False).returncode == 65


def test_plan_diff_and_get_write_nothing(lab: Lab) -> None:
    text, before = to_yaml(HOST, web()), own_mounts()
    lab.vsprov("plan", "-", input=text)
    lab.vsprov("diff", "-", input=text, check=False)
    lab.vsprov("get")
    lab.vsprov("ps")
    lab.vsprov("doctor")
    assert lab.vsprov.left() == [] and not lab.vsprov.root.exists()
    assert own_mounts() == before


def test_a_plan_as_json_is_as_its_schema_says(lab: Lab) -> None:
    schema = json.loads((CHECKOUT / "schemas/plan.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    documents = (HOST, pool("all", memory={"max": "1Gi"}), web(quota="all"))
    plan = lab.plan(*documents)
    check.validate(plan)
    assert plan["summary"] == {"add": 3, "change": 0, "replace": 0, "destroy": 0, "restart": 0}
    done = lab.apply(*documents, flags=("-o", "json"))
    applied = json.loads(done.stdout)
    check.validate(applied)
    assert applied["outcome"]["done"] == ["Image/host", "Quota/all", "Server/web1"]
    assert "Server/web1: created" in done.stderr
    check.validate(lab.plan(*documents))
    gone = json.loads(lab.vsprov("destroy", "--all", "-y", "-o", "json").stdout)
    check.validate(gone)
    assert gone["summary"]["destroy"] == 3


@pytest.mark.vm_subset
def test_a_second_apply_has_nothing_to_do_and_does_not_ask(lab: Lab) -> None:
    lab.apply(HOST, web())
    done = lab.vsprov("apply", "-", input=to_yaml(HOST, web()))
    assert (done.stdout, done.stderr) == ("Nothing to do: 1 server, 1 image are as in the manifest.\n", "")


def test_without_a_terminal_apply_and_destroy_want_to_be_told_yes(lab: Lab) -> None:
    refused = lab.vsprov("apply", "-", input=to_yaml(HOST, web()), check=False)
    assert refused.returncode == 64
    assert "give --yes (-y)" in refused.stderr
    assert not lab.vsprov.root.exists()
    lab.apply(HOST, web())
    assert lab.vsprov("destroy", "--all", check=False).returncode == 64
    assert lab.init("web1")


def test_no_at_the_question_changes_nothing_and_yes_goes_ahead(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    code, shown = on_a_terminal(lab, "apply", str(tmp_path / "m.yaml"), typed="n\n", when="[y/N]")
    assert (code, lab.vsprov.root.exists()) == (130, False)
    assert "Apply this plan? [y/N]" in shown and "Nothing was changed." in shown
    code, shown = on_a_terminal(lab, "apply", str(tmp_path / "m.yaml"), typed="yes\n", when="[y/N]")
    assert code == 0
    assert "\x1b[" in shown and "Done: 2 added" in shown
    assert lab.init("web1")


def test_an_interrupt_at_the_question_ends_with_130_and_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    code, shown = on_a_terminal(lab, "apply", str(tmp_path / "m.yaml"), typed="\x03", when="[y/N]")
    assert code == 130
    assert "interrupted" in shown
    assert not lab.vsprov.root.exists()


def test_a_lock_that_is_held_ends_with_75_and_names_its_holder(lab: Lab) -> None:
    lab.apply(HOST, web())
    with open(lab.vsprov.run / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("pid 1: the holder\n")
        lock.flush()
        refused = lab.vsprov("apply", "-y", "-", input=to_yaml(HOST, web()), check=False)
        assert (refused.returncode, refused.stdout) == (75, "")
        assert "pid 1: the holder" in refused.stderr and "--lock-timeout" in refused.stderr
        waiting = lab.vsprov("stop", "--all", "--lock-timeout", "50ms", check=False)
        assert waiting.returncode == 75
        assert lab.plan(HOST, web())["resource_changes"] == []
    assert lab.vsprov("apply", "-", "--lock-timeout", "1s", input=to_yaml(HOST, web())).returncode == 0


def test_a_command_that_ends_while_the_apply_goes_on_is_told_with_its_last_words(lab: Lab) -> None:
    def slow(command: str) -> Document:
        return server("slow", "/bin/sh", "-c", command, init={"stopTimeout": "2s"})

    lab.apply(HOST, slow("trap : TERM; while :; do sleep 0.1; done"))
    # The restart of the one takes its two seconds, in which the other has ended.
    said = lab.refused(
        slow("sleep 9999"), server("web1", "/bin/sh", "-c", "echo first; echo last words; exit 3")
    )
    assert "a second plan is not empty" in said
    assert "Server/web1: its command exited with code 3" in said
    assert "web1: first\n  web1: last words" in said
    web1 = json.loads(lab.vsprov("get", "server", "web1", "-o", "json").stdout)
    assert (web1["status"]["state"], web1["status"]["lastExit"]["code"]) == ("Stopped", 3)


def test_an_apply_whose_words_nobody_reads_any_more_is_finished(lab: Lab) -> None:
    documents = (HOST, web(), web("web2"), web("web3"))
    command = subprocess.Popen(
        ["sh", "-c", '"$@" 2>&1 | { read line; }', "sh", *lab.vsprov.command("apply", "-y", "-")],
        stdin=subprocess.PIPE,
        env=lab.vsprov.environment,
    )
    command.communicate(to_yaml(*documents).encode(), timeout=SECONDS)
    lab.wait_until(lambda: lab.vsprov("get", "servers", "-o", "name").stdout.count("Server/web") == 3)
    lab.wait_until(lambda: not (lab.vsprov.run / "intent").exists())
    assert lab.is_settled(*documents)


def test_where_one_server_fails_the_others_are_made_and_the_exit_code_is_1(lab: Lab) -> None:
    done = lab.apply(HOST, server("bad", "/no/such/program"), web(), check=False)
    assert done.returncode == 1
    assert "Server/bad: " in done.stderr and "No such file or directory" in done.stderr
    assert "1 of 3 failed: 2 added" in done.stderr
    assert lab.init("web1")


def test_a_selector_applies_only_its_servers_and_what_they_use(lab: Lab) -> None:
    documents = (HOST, image("unused"), web(), server("db1", labels={"tier": "db"}))
    lab.apply(*documents, flags=("-l", "tier=web"))
    assert lab.vsprov("get", "-o", "name").stdout == "Image/host\nServer/web1\n"
    lab.apply(*documents)
    assert lab.vsprov("get", "servers", "-l", "tier!=web", "-o", "name").stdout == "Server/db1\n"
    lab.vsprov("destroy", "-y", "-l", "tier=db", "-", input=to_yaml(*documents))
    assert lab.vsprov("get", "servers", "-o", "name").stdout == "Server/web1\n"


def test_prune_removes_what_the_set_had_and_never_more_than_was_meant(lab: Lab) -> None:
    lab.apply(HOST, web(), web("web2"))
    lab.apply(image("other"), flags=("--set-name", "other"))
    assert lab.refused(HOST, web(), flags=("--prune", "-l", "tier=web"), code=64)
    refused = lab.vsprov("apply", "-y", "--prune", "-", input="", check=False)
    assert refused.returncode == 64 and "--allow-empty" in refused.stderr
    lab.apply(HOST, web(), flags=("--prune",))
    assert lab.vsprov("get", "-o", "name").stdout == "Image/host\nImage/other\nServer/web1\n"
    lab.vsprov("apply", "-y", "--prune", "--allow-empty", "-", input="")
    assert lab.vsprov("get", "-o", "name").stdout == "Image/other\n"


def test_the_set_is_the_one_the_project_file_names(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "servers").mkdir()
    (tmp_path / "vsprov.yaml").write_text("set: shop\n")
    (tmp_path / "servers/web.yaml").write_text(to_yaml(HOST, web()))
    lab.vsprov("apply", "-y", tmp_path / "servers")
    assert json.loads(lab.vsprov("get", "server", "web1", "-o", "json").stdout)["status"]["set"] == "shop"
    refused = lab.vsprov("apply", "-y", "-", input=to_yaml(HOST, web()), cwd=Path("/"), check=False)
    assert refused.returncode == 1
    assert "belongs to" in refused.stderr and "shop" in refused.stderr


def test_a_plan_that_cannot_be_applied_names_the_place_in_the_manifest(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web(resources={"cpu": {"reservation": "900000m"}})))
    refused = lab.vsprov("apply", "-y", tmp_path / "m.yaml", check=False)
    assert refused.returncode == 1
    assert "CPU reservations add up to" in refused.stderr
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web(quota="nowhere")))
    assert lab.vsprov("plan", tmp_path / "m.yaml", check=False).returncode == 65
    assert not lab.vsprov.root.exists()


# -- saved plans


def test_a_saved_plan_is_applied_without_its_manifest_and_without_asking(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    lab.vsprov("plan", tmp_path / "m.yaml", "--out", tmp_path / "p.plan")
    assert (tmp_path / "p.plan").stat().st_mode & 0o777 == 0o600
    (tmp_path / "m.yaml").unlink()
    done = lab.vsprov("apply", tmp_path / "p.plan")
    assert "Done: 2 added" in done.stdout
    assert lab.is_settled(HOST, web())


@pytest.mark.parametrize("how", ["the world", "the manifest"])
def test_a_saved_plan_is_refused_when_what_it_was_made_from_has_changed(
    lab: Lab, tmp_path: Path, how: str
) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    lab.vsprov("plan", tmp_path / "m.yaml", "--out", tmp_path / "p.plan")
    if how == "the world":
        lab.apply(HOST)
    else:
        (tmp_path / "m.yaml").write_text(to_yaml(HOST, web("web2")))
    refused = lab.vsprov("apply", tmp_path / "p.plan", check=False)
    assert refused.returncode == 1
    assert "the saved plan is stale" in refused.stderr
    assert "Server/web1" not in lab.vsprov("get", "-o", "name").stdout


def test_a_saved_plan_is_applied_once_and_alone(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    plan = tmp_path / "p.plan"
    lab.vsprov("plan", tmp_path / "m.yaml", "--out", plan)
    assert lab.vsprov("apply", plan, "--prune", check=False).returncode == 64
    assert lab.vsprov("apply", plan, tmp_path / "m.yaml", check=False).returncode == 64
    assert lab.vsprov("apply", plan, "--instance", "vt-other", check=False).returncode == 64
    assert lab.vsprov("apply", plan).returncode == 0
    assert lab.vsprov("apply", plan, check=False).returncode == 1
    torn = plan.read_text()[:1000]
    plan.write_text(torn)
    refused = lab.vsprov("apply", plan, check=False)
    assert refused.returncode == 64 and "not a plan that this version" in refused.stderr


# -- diff


def test_diff_shows_what_differs_and_its_exit_code_says_whether(lab: Lab) -> None:
    lab.apply(HOST, web(resources={"memory": {"max": "64Mi"}}))
    documents = to_yaml(HOST, web(resources={"memory": {"max": "64Mi"}}))
    same = lab.vsprov("diff", "-", input=documents)
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    other = lab.vsprov("diff", "-", input=documents.replace("64Mi", "65Mi"), check=False)
    assert other.returncode == 1
    assert other.stdout.startswith("--- observed/Server/web1\n+++ wanted/Server/web1\n@@")
    assert "\n-      max: 64Mi\n+      max: 65Mi\n" in other.stdout
    missing = lab.vsprov("diff", "-", input=to_yaml(web("web2", image="host")), check=False)
    assert missing.returncode == 1 and "+  name: web2\n" in missing.stdout
    assert lab.vsprov("diff", "-", input="kind: Sever", check=False).returncode == 65


@pytest.mark.vm_subset
def test_diff_takes_equal_what_the_kernel_rounds_or_has_by_default(lab: Lab) -> None:
    lab.apply(HOST, web(resources={"memory": {"max": "64Mi"}}))
    near = web(resources={"memory": {"max": (64 << 20) + 5}, "cpu": {"weight": 100}})
    assert lab.vsprov("diff", "-", input=to_yaml(HOST, near)).stdout == ""


# -- get


@pytest.fixture(scope="module")
def shop(shared_lab: Lab) -> Iterator[Lab]:
    """A lab with a pool, two servers in it, one beside it and one that is stopped."""
    shared_lab.apply(
        HOST,
        quota("small", cpu={"limit": "500m"}),
        pool("all", memory={"max": "512Mi"}, cpu={"cpus": "0"}),
        web(quota="all", resources={"memory": {"max": "64Mi"}, "cpu": {"reservation": "100m"}}),
        server("web2", "/bin/sh", "-c", TICKER, quota="all", resources={"pids": {"max": 20}}),
        server("db1", quota="small", annotations={"vsprov/ignore": "pids.max"}),
        server("old", state="Stopped", resources={"rlimits": {"nofile": {"soft": 100, "hard": 200}}}),
    )
    yield shared_lab


@pytest.mark.vm_subset
def test_what_get_prints_as_yaml_is_a_manifest_whose_plan_is_empty(shop: Lab, tmp_path: Path) -> None:
    (tmp_path / "now.yaml").write_text(shop.vsprov("get", "-o", "yaml").stdout)
    done = shop.vsprov("plan", "--detailed-exitcode", tmp_path / "now.yaml")
    assert done.stdout == "Nothing to do: 4 servers, 1 image, 1 quota are as in the manifest.\n"
    assert shop.vsprov("diff", tmp_path / "now.yaml").stdout == ""


@pytest.mark.vm_subset
def test_get_as_json_tells_spec_and_status(shop: Lab) -> None:
    one = json.loads(shop.vsprov("get", "server", "web1", "-o", "json").stdout)
    init = shop.init("all/web1")
    assert (one["apiVersion"], one["kind"]) == ("vsprov/v1", "Server")
    assert one["metadata"] == {"name": "web1", "labels": {"tier": "web"}}
    assert one["spec"]["quota"] == "all" and one["spec"]["resources"]["memory"]["max"] == 64 << 20
    seen = one["status"]
    assert (seen["state"], seen["pid"]) == ("Running", init.pid)
    assert seen["cgroup"] == f"{shop.vsprov.name}/all/web1"
    assert seen["idRange"] == {"first": int(status(init.pid, "Uid").split()[0]), "count": 65536}
    assert seen["usage"]["pids"] == 1 and seen["usage"]["cpuSeconds"] > 0
    assert seen["usage"]["memoryBytes"] is None or 4096 <= seen["usage"]["memoryBytes"] <= 64 << 20
    assert (seen["addresses"], seen["lastExit"], seen["set"]) == ([], None, "default")
    stopped = json.loads(shop.vsprov("get", "server/old", "-o", "json").stdout)
    assert (stopped["status"]["state"], stopped["status"]["pid"], stopped["spec"]["state"]) == (
        "Stopped",
        None,
        "Stopped",
    )


def test_get_without_a_name_is_a_list_of_all_kinds(shop: Lab) -> None:
    items = json.loads(shop.vsprov("get", "-o", "json").stdout)["items"]
    addresses = [f"{one['kind']}/{one['metadata']['name']}" for one in items]
    assert addresses == ["Image/host", "Quota/all", "Server/db1", "Server/old", "Server/web1", "Server/web2"]
    assert shop.vsprov("get", "-o", "name").stdout.split() == addresses
    assert shop.vsprov("get", "quotas", "-o", "name").stdout == "Quota/all\n"


def test_get_shows_a_table(shop: Lab) -> None:
    lines = shop.vsprov("get", "servers").stdout.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "PID", "IMAGE", "QUOTA", "CPU", "MEMORY", "PIDS", "UPTIME"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["web1"][1:5] == ["Running", str(shop.init("all/web1").pid), "host", "all"]
    assert rows["web1"][6].endswith("/64Mi") and rows["web2"][7].endswith("/20")
    assert rows["old"][1:3] == ["Stopped", "-"]
    wide = shop.vsprov("get", "servers", "-o", "wide").stdout
    assert f"{shop.vsprov.name}/all/web1" in wide and "sleep infinity" in wide


def test_a_name_there_is_not_is_an_error_with_the_nearest_one(shop: Lab) -> None:
    refused = shop.vsprov("get", "server", "wbe1", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "vsprov: Server/wbe1: there is none\n  hint: did you mean web1?\n"


def test_get_shows_a_limit_that_was_changed_by_hand(lab: Lab) -> None:
    lab.apply(HOST, web(resources={"pids": {"max": 20}}))
    (lab.group("web1", "pids") / "pids.max").write_text("17")
    one = json.loads(lab.vsprov("get", "server", "web1", "-o", "json").stdout)
    assert one["spec"]["resources"] == {"pids": {"max": 17}}
    assert (
        lab.vsprov("diff", "-", input=to_yaml(web(resources={"pids": {"max": 20}})), check=False).returncode
        == 1
    )


def test_get_of_nothing_is_nothing(lab: Lab) -> None:
    assert json.loads(lab.vsprov("get", "-o", "json").stdout) == {"items": []}
    assert lab.vsprov("get", "-o", "yaml").stdout == "" == lab.vsprov("get", "-o", "name").stdout
    assert lab.vsprov("get", "servers").stdout.splitlines()[0].startswith("NAME")


# -- start, stop, restart


@pytest.mark.vm_subset
def test_stop_and_start_leave_what_a_server_should_be_and_the_plan_shows_the_drift(lab: Lab) -> None:
    lab.apply(HOST, web())
    first = lab.init("web1")
    stopped = lab.vsprov("stop", "web1")
    assert "Server/web1: stopped" in stopped.stderr
    assert lab.processes("web1") == []
    assert lab.differences(HOST, web()) == {"Server/web1 /spec/state": ("Stopped", "Running", "none")}
    assert lab.vsprov("stop", "web1").stderr == "Server/web1: is stopped already\n"
    assert "Server/web1: started" in lab.vsprov("start", "web1").stderr
    assert lab.init("web1") != first
    assert lab.is_settled(HOST, web())
    assert lab.vsprov("start", "web1").stderr == "Server/web1: is running already\n"


def test_get_tells_how_the_last_run_ended_until_the_next_begins(lab: Lab) -> None:
    tidy = web("tidy", init={"command": ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"]})
    lab.apply(HOST, web(), tidy)

    def last_exit(name: str) -> Any:
        return json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]["lastExit"]

    assert (last_exit("web1"), last_exit("tidy")) == (None, None)
    lab.vsprov("stop", "--all")
    killed, left = last_exit("web1"), last_exit("tidy")
    assert (killed["code"], killed["signal"]) == (None, signal.SIGKILL)  # sleep has no handler for SIGTERM
    assert (left["code"], left["signal"]) == (3, None) and left["at"].endswith("Z")
    lab.vsprov("start", "web1")
    assert (last_exit("web1"), last_exit("tidy")) == (None, left)


def test_restart_gives_a_new_init_in_the_same_server(lab: Lab) -> None:
    lab.apply(HOST, web())
    lab.shell("web1", "echo kept > /root/note")
    first = lab.init("web1")
    assert "Server/web1: restarted" in lab.vsprov("restart", "web1").stderr
    assert lab.init("web1") != first
    assert lab.shell("web1", "cat /root/note") == "kept\n"
    lab.vsprov("stop", "web1")
    lab.vsprov("restart", "web1")
    assert lab.is_settled(HOST, web())


def test_a_restart_takes_the_image_as_it_is_now_and_records_it(lab: Lab, tmp_path: Path) -> None:
    root = busybox_image(tmp_path / "root")
    box, wanted = image("box", directory=str(root)), web(image="box")
    lab.apply(box, wanted)
    (root / "etc/motd").write_text("new\n")
    lab.apply(box)
    assert [path for path in lab.differences(box, wanted)] == ["Server/web1 /spec/image"]
    lab.vsprov("restart", "web1")
    assert lab.shell("web1", "cat /etc/motd") == "new\n"
    assert lab.is_settled(box, wanted)


def test_servers_are_chosen_by_name_label_or_all(lab: Lab) -> None:
    lab.apply(HOST, web(), web("web2"), server("db1"))
    lab.vsprov("stop", "-l", "tier=web")
    assert (lab.processes("web1"), lab.processes("web2")) == ([], []) and lab.init("db1")
    report = json.loads(lab.vsprov("start", "--all", "-o", "json").stdout)
    assert report == {
        "done": ["Server/web1", "Server/web2"],
        "already": ["Server/db1"],
        "errors": [],
        "exits": {},
    }
    unknown = lab.vsprov("stop", "web1", "web3", check=False)
    assert unknown.returncode == 1 and "Server/web3: there is no such server" in unknown.stderr
    assert lab.init("web1")
    assert "no server is selected" in lab.vsprov("stop", "-l", "tier=none").stderr


def test_servers_start_after_what_they_depend_on_and_stop_before_it(lab: Lab) -> None:
    lab.apply(HOST, web("a", dependsOn=[{"name": "b"}]), web("b", dependsOn=[{"name": "c"}]), web("c"))
    stopped = [line.partition(":")[0] for line in lab.vsprov("stop", "--all").stderr.splitlines()]
    assert stopped == ["Server/a", "Server/b", "Server/c"]
    started = [line.partition(":")[0] for line in lab.vsprov("start", "--all").stderr.splitlines()]
    assert started == ["Server/c", "Server/b", "Server/a"]


def test_the_time_a_server_has_to_end_can_be_given(lab: Lab) -> None:
    lab.apply(
        HOST,
        server(
            "slow",
            "/bin/sh",
            "-c",
            "trap 'echo asked' TERM; while :; do sleep 0.05; done",
            init={"stopTimeout": "1h"},
        ),
    )
    lab.vsprov("stop", "slow", "--timeout", "100ms")
    assert lab.processes("slow") == []
    assert lab.console("slow") == "asked\n"


@pytest.mark.vm_subset
def test_start_makes_again_what_a_reboot_took(lab: Lab) -> None:
    lab.apply(HOST, web(resources={"pids": {"max": 20}}))
    lab.shell("web1", "echo kept > /root/note")
    lab.vsprov("stop", "web1")
    for controller in ("", "cpu", "memory", "pids"):
        group = lab.group("web1", controller)
        for folder in (group / "payload", group / "exec", group):
            if folder.exists():
                folder.rmdir()
    lab.vsprov("start", "web1")
    assert lab.limit("web1", "pids.max") == "20"
    assert lab.shell("web1", "cat /root/note") == "kept\n"
    assert lab.is_settled(HOST, web(resources={"pids": {"max": 20}}))


# -- exec, shell


@pytest.mark.vm_subset
def test_exec_passes_input_output_and_exit_code_on(shop: Lab) -> None:
    done = shop.vsprov("exec", "web1", "--", "sh", "-c", "cat; echo err >&2; exit 7", input="in", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "in", "err\n")
    assert shop.vsprov("exec", "web1", "--", "sh", "-c", "kill -9 $$", check=False).returncode == 137
    assert shop.vsprov("exec", "web1", "--", "/no/such", check=False).returncode == 127
    assert shop.vsprov("exec", "web1", "--", "/etc/passwd", check=False).returncode == 126


def test_exec_takes_user_folder_and_environment(shop: Lab) -> None:
    said = shop.vsprov(
        "exec",
        "-u",
        "1:2",
        "-w",
        "/tmp",
        "-e",
        "A=b c",
        "web1",
        "--",
        "sh",
        "-c",
        'id -u; id -g; pwd; echo "$A"',
    )
    assert said.stdout == "1\n2\n/tmp\nb c\n"
    after = shop.vsprov("exec", "web1", "-u", "1", "--", "id", "-u")
    assert after.stdout == "1\n"
    bare = shop.vsprov("exec", "web1", "ls", "-d", "/root")
    assert bare.stdout == "/root\n"


def test_exec_is_in_the_servers_groups_while_it_runs_and_leaves_no_process_behind(shop: Lab) -> None:
    said = shop.vsprov("exec", "web2", "--", "cat", "/proc/self/cgroup").stdout
    assert any(line.endswith("/exec") for line in said.splitlines() if line.startswith("0::"))
    assert (shop.group("all/web2") / "exec/cgroup.procs").read_text() == ""


def test_exec_in_a_server_that_does_not_run_says_so(shop: Lab) -> None:
    refused = shop.vsprov("exec", "old", "--", "true", check=False)
    assert (refused.returncode, refused.stderr) == (
        1,
        "vsprov: Server/old: it is not running\n  hint: vsprov start old\n",
    )
    unknown = shop.vsprov("exec", "wb1", "--", "true", check=False)
    assert unknown.returncode == 1 and "did you mean web1?" in unknown.stderr


def test_exec_on_a_terminal_gives_the_command_one(shop: Lab) -> None:
    code, shown = on_a_terminal(shop, "exec", "web1", "--", "sh", "-c", "tty; echo $TERM; exit 5")
    assert (code, shown) == (5, "/dev/pts/0\nxterm\n")
    code, shown = on_a_terminal(shop, "exec", "-T", "web1", "--", "sh", "-c", "tty; exit 0")
    assert (code, shown) == (0, "not a tty\n")


def test_shell_is_a_login_shell_with_a_terminal(shop: Lab) -> None:
    code, shown = on_a_terminal(shop, "shell", "web1", typed='echo "is $0"; tty; exit 3\n', when="# ")
    assert code == 3
    assert "is /bin/" in shown and "/dev/pts/0" in shown


# -- logs, ps


def test_logs_shows_all_or_the_last_lines(lab: Lab) -> None:
    lab.apply(HOST, server("web1", "/bin/sh", "-c", "seq 1 20000; printf last; exec sleep infinity"))
    lab.wait_until(lambda: lab.console("web1").endswith("last"))
    everything = lab.vsprov("logs", "web1").stdout.splitlines()
    assert (len(everything), everything[0], everything[-1]) == (20001, "1", "last")
    assert lab.vsprov("logs", "web1", "-n", "3").stdout == "19999\n20000\nlast"
    assert lab.vsprov("logs", "web1", "--tail", "0").stdout == ""
    assert lab.vsprov("logs", "web1", "-n", "99999").stdout.splitlines() == everything


def test_logs_follows_across_a_restart(lab: Lab) -> None:
    lab.apply(HOST, server("web1", "/bin/sh", "-c", "echo started; exec sleep infinity"))
    following = subprocess.Popen(
        lab.vsprov.command("logs", "-f", "web1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=lab.vsprov.environment,
    )
    try:
        assert following.stdout and following.stderr
        assert following.stdout.readline() == b"started\n"
        lab.vsprov("restart", "web1")
        assert following.stdout.readline() == b"started\n"
        following.send_signal(signal.SIGINT)
        assert (following.wait(60), following.stderr.read()) == (130, b"")
    finally:
        following.kill()
        following.communicate()


def test_logs_ends_when_the_server_is_destroyed(lab: Lab) -> None:
    lab.apply(HOST, server("web1", "/bin/sh", "-c", "echo started; exec sleep infinity"))
    following = subprocess.Popen(
        lab.vsprov.command("logs", "-f", "web1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=lab.vsprov.environment,
    )
    try:
        assert following.stdout
        assert following.stdout.readline() == b"started\n"
        lab.vsprov("destroy", "--all", "-y")
        assert following.wait(60) == 0
    finally:
        following.kill()
        following.communicate()


def test_logs_on_a_terminal_control_nothing(lab: Lab) -> None:
    lab.apply(HOST, server("web1", "/bin/sh", "-c", r"printf '\033]0;owned\007\n'; exec sleep infinity"))
    lab.wait_until(lambda: lab.console("web1").endswith("\n"))
    assert on_a_terminal(lab, "logs", "web1") == (0, "\\e]0;owned\\x07\n")
    assert lab.vsprov("logs", "web1").stdout == "\x1b]0;owned\x07\n"


def test_logs_reads_nothing_but_a_regular_file_of_the_server(lab: Lab) -> None:
    lab.apply(HOST, web(state="Stopped"))
    assert lab.vsprov("logs", "web1").stdout == ""
    log = lab.directory("web1") / "console.log"
    log.symlink_to("/etc/passwd")
    refused = lab.vsprov("logs", "web1", check=False)
    assert (refused.returncode, refused.stdout) == (1, "") and "symbolic link" in refused.stderr
    log.unlink()
    os.mkfifo(log)
    assert lab.vsprov("logs", "web1", check=False).returncode == 1
    log.unlink()
    for name in ("../web1", "web2", ".", ""):
        assert lab.vsprov("logs", name, check=False).returncode == 1


@pytest.mark.vm_subset
def test_ps_shows_the_processes_of_all_servers_with_both_their_pids(shop: Lab) -> None:
    items = json.loads(shop.vsprov("ps", "-o", "json").stdout)["items"]
    (one,) = [item for item in items if item["server"] == "web1"]
    assert (one["pid"], one["inner"], one["user"], one["command"]) == (
        shop.init("all/web1").pid,
        1,
        0,
        "sleep infinity",
    )
    assert one["resident"] > 0 and one["state"] == "S"
    assert {item["server"] for item in items} == {"web1", "web2", "db1"}
    lines = shop.vsprov("ps", "db1").stdout.splitlines()
    assert lines[0].split() == ["SERVER", "PID", "NSPID", "USER", "STATE", "RSS", "TIME", "COMMAND"]
    assert [line.split()[0] for line in lines[1:]] == ["db1"]


def test_ps_escapes_what_a_command_line_hides(lab: Lab) -> None:
    lab.apply(HOST, server("web2", "/bin/sh", "-c", "sleep infinity; : '\x1b[2J'"))
    assert "\x1b" not in lab.vsprov("ps", "web2").stdout
    assert "\\e[2J" in lab.vsprov("ps", "web2").stdout


# -- doctor, destroy


@pytest.mark.vm_subset
def test_doctor_says_that_servers_can_run_here(lab: Lab) -> None:
    report = json.loads(lab.vsprov("doctor", "-o", "json").stdout)
    assert report["able"] is True
    states = {finding["feature"]: finding["state"] for finding in report["findings"]}
    assert states["overlay"] == states["mount API"] == states["namespace user"] == states["cgroup2"] == "ok"
    assert all(finding["cost"] for finding in report["findings"] if finding["state"] != "ok")
    assert "Servers can run here" in lab.vsprov("doctor").stdout


def test_doctor_without_root_says_that_they_cannot(lab: Lab) -> None:
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", *lab.vsprov.command("doctor")]
    done = subprocess.run(command, capture_output=True, text=True, env=lab.vsprov.environment)
    assert done.returncode == 69
    assert "capabilities" in done.stdout and "Servers cannot run here" in done.stdout


@pytest.mark.parametrize(
    "verb", [["get"], ["plan", "-"], ["apply", "-y", "-"], ["ps"], ["logs", "a"], ["stop", "--all"]]
)
def test_without_root_it_ends_with_77_and_says_so(lab: Lab, verb: list[str]) -> None:
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", *lab.vsprov.command(*verb)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=lab.vsprov.environment, input=to_yaml(HOST)
    )
    assert (done.returncode, done.stdout) == (77, "")
    assert "needs root\n  hint: run it with sudo\n" in done.stderr


def test_destroy_removes_what_the_manifest_names_and_leaves_the_rest(lab: Lab) -> None:
    documents = (HOST, pool("all"), web(quota="all"), server("db1"))
    lab.apply(*documents)
    kept = lab.init("db1")
    refused = lab.vsprov("destroy", "-y", "-", input=to_yaml(HOST), check=False)
    assert refused.returncode == 1 and "used by db1, web1" in refused.stderr
    done = lab.vsprov("destroy", "-y", "-", input=to_yaml(*documents[1:3]))
    assert "Done: 0 added, 0 changed, 2 destroyed" in done.stdout
    assert lab.init("db1") == kept
    assert lab.vsprov("get", "-o", "name").stdout == "Image/host\nServer/db1\n"
    assert "Nothing to do" in lab.vsprov("destroy", "-y", "-", input=to_yaml(*documents[1:3])).stdout


@pytest.mark.vm_subset
def test_destroy_all_takes_every_set_and_leaves_nothing(lab: Lab) -> None:
    lab.apply(HOST, flags=("--set-name", "base"))
    lab.apply(pool("all"), web(quota="all"), flags=("--set-name", "shop"))
    lab.vsprov("destroy", "--all", "-y")
    assert lab.vsprov.left() == []
    assert "Nothing to do" in lab.vsprov("destroy", "--all").stdout
    assert lab.vsprov.left() == []


def test_destroy_all_leaves_what_is_not_ours(lab: Lab) -> None:
    lab.apply(HOST, web())
    stranger = lab.group("stranger")
    stranger.mkdir()
    try:
        lab.vsprov("destroy", "--all", "-y", check=False)
        assert stranger.is_dir()
        assert not lab.group("web1").exists()
    finally:
        stranger.rmdir()


def test_an_apply_that_is_terminated_ends_with_143_and_the_next_one_converges(lab: Lab) -> None:
    documents = (HOST, *(web(f"web{i}") for i in range(20)))
    running = subprocess.Popen(
        lab.vsprov.command("apply", "-y", "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=lab.vsprov.environment,
    )
    assert running.stdin and running.stderr
    running.stdin.write(to_yaml(*documents).encode())
    running.stdin.close()
    while not running.stderr.readline().startswith(b"Server/web"):
        assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    told = running.stderr.read()
    assert running.wait(60) in (0, 143), told
    assert b"Traceback" not in told
    running.stderr.close()
    lab.apply(*documents)
    assert lab.is_settled(*documents)
