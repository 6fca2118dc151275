"""Servers that start when others are in a condition, and commands that wait until servers are ready."""

from __future__ import annotations

import json
import os
import select
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.applying import applying
from tests.e2e.networks import NetworkLab, idle, network
from tests.lab import Document, Lab, image, server, to_yaml, wait_for, wait_until

FAST = {"interval": "100ms", "timeout": "5s", "retries": 2}
READY: Any = {"file": "/tmp/go", **FAST}
WAITS = "mkfifo /tmp/fifo; read line < /tmp/fifo"


def after(name: str, condition: str) -> Any:
    return [{"name": name, "condition": condition}]


def states(lab: Lab) -> dict[str, str]:
    items = json.loads(lab.vsprov("get", "servers", "-o", "json").stdout)["items"]
    return {item["metadata"]["name"]: item["status"]["state"] for item in items}


def go(lab: Lab, name: str) -> None:
    wait_until(lambda: name in states(lab) and states(lab)[name] in ("Running", "Starting"))
    (lab.root(name) / "tmp/go").touch()


def test_a_server_starts_once_what_it_depends_on_is_ready(lab: Lab) -> None:
    documents = (
        image(),
        server("web", dependsOn=after("db", "ready")),
        server("db", readiness=READY),
        server("beside"),
    )
    with applying(lab, *documents) as it:
        wait_until(lambda: states(lab) == {"db": "Starting", "beside": "Running"})
        go(lab, "db")
        it.succeeds()
        assert states(lab) == {"web": "Running", "db": "Ready", "beside": "Running"}
        assert lab.is_settled(*documents)
        lab.vsprov("stop", "web")
        lab.apply(*documents)  # db is ready already
        assert states(lab)["web"] == "Running"


def test_servers_follow_one_that_completes_and_one_that_is_healthy(lab: Lab) -> None:
    documents = (
        image(),
        server("web", dependsOn=after("migration", "completed")),
        server(
            "migration",
            "sh",
            "-c",
            f"{WAITS}; exit 0",
            init={"oneshot": True},
            dependsOn=after("db", "healthy"),
        ),
        server("db", health={**READY, "retries": 600}),
    )
    with applying(lab, *documents) as it:
        wait_until(lambda: states(lab) == {"db": "Running"})
        go(lab, "db")
        wait_until(lambda: states(lab).get("migration") == "Running")
        assert "web" not in states(lab)
        fifo = lab.root("migration") / "tmp/fifo"
        wait_until(fifo.exists)
        fifo.write_text("\n")
        it.succeeds()
        assert states(lab)["web"] == "Running"
        assert lab.is_settled(*documents)


def test_what_depends_on_a_server_that_fails_does_not_start_and_the_next_apply_tries_again(lab: Lab) -> None:
    def documents(script: str) -> list[Document]:
        return [
            image(),
            server("web", dependsOn=after("migration", "completed")),
            server("api", dependsOn=[{"name": "web"}]),
            server("migration", "sh", "-c", script, init={"oneshot": True}),
            server("beside"),
        ]

    done = lab.apply(*documents("echo cannot; sleep 0.1; exit 3"), check=False)
    assert done.returncode == 1
    assert "vsprov: Server/migration: did not complete: Exited (3)" in done.stderr
    assert "vsprov: Server/web: skipped, because Server/migration did not complete" in done.stderr
    assert "Server/api: skipped, because Server/web failed" in done.stderr
    assert states(lab) == {"migration": "Exited (3)", "beside": "Running"}
    lab.converge(*documents("exit 0"))
    assert states(lab)["api"] == "Running"


def test_a_server_that_is_not_ready_in_time_holds_back_what_depends_on_it(lab: Lab) -> None:
    documents = (image(), server("web", dependsOn=after("db", "ready")), server("db", readiness=READY))
    done = lab.apply(*documents, flags=("--wait-timeout", "3s"), check=False)
    assert done.returncode == 1
    late = "did not become ready within 3s: /tmp/go: No such file or directory"
    assert f"vsprov: Server/db: {late}" in done.stderr
    assert "vsprov: Server/web: skipped, because Server/db did not become ready" in done.stderr
    assert states(lab) == {"db": "Starting"}


def test_more_servers_wait_than_are_changed_at_a_time(lab: Lab) -> None:
    names = [f"db{number}" for number in range(5)]
    documents = [image(), server("last")]
    for name in names:
        documents += [server(name, readiness=READY), server(f"of-{name}", dependsOn=after(name, "ready"))]
    with applying(lab, *documents, flags=("--parallelism", "2")) as it:
        wait_until(lambda: states(lab) == {**dict.fromkeys(names, "Starting"), "last": "Running"})
        for name in names:
            go(lab, name)
        it.succeeds()
        assert list(states(lab).values()).count("Running") == 6


@pytest.mark.parametrize("flags", [("--wait",), ()])
def test_an_apply_waits_until_its_servers_are_ready_if_asked_to(lab: Lab, flags: tuple[str, ...]) -> None:
    documents = (image(), server("a", readiness=READY), server("b"), server("off", state="Stopped"))
    with applying(lab, *documents, flags=flags) as it:
        if not flags:
            it.succeeds()
            assert states(lab) == {"a": "Starting", "b": "Running", "off": "Stopped"}
            return
        go(lab, "a")
        it.succeeds()
        assert states(lab)["a"] == "Ready"


def test_an_apply_that_waits_holds_no_lock(lab: Lab) -> None:
    with applying(lab, image(), server("a", readiness=READY), flags=("--wait",)) as it:
        wait_until(it.is_waiting)
        lab.vsprov("start", "a")  # which needs the lock
        go(lab, "a")
        it.succeeds()


WEB = server("web", dependsOn=after("db", "ready"))
OF_WEB = server("of-web", dependsOn=[{"name": "web"}])
DB = server("db", readiness=READY, ephemeral=True)


@pytest.mark.parametrize("verb", ["apply", "start", "restart"])
def test_other_commands_can_work_while_servers_wait_for_a_condition(lab: Lab, verb: str) -> None:
    documents = (image(), DB, WEB, OF_WEB, server("other"))
    words: tuple[str, ...] = ("apply", "-y", "-")
    if verb != "apply":
        with applying(lab, *documents) as it:
            go(lab, "db")
            it.succeeds()
        words = verb, "db", "web", "of-web"
    if verb == "start":
        lab.vsprov("stop", "db", "web", "of-web")
    before = lab.running("web")
    with applying(lab, *documents, verb=words) as it:
        wait_until(lambda: lab.running("other") is not None and states(lab).get("db") == "Starting")
        wait_until(lambda: lab.vsprov("stop", "other", check=False).returncode == 0)  # it does not wait
        lab.apply(image(), server("new"), flags=("--set-name", "b"))
        lab.vsprov("delete", "server", "new", "-y")
        assert it.process.poll() is None and lab.running("web") == before
        go(lab, "db")
        code, said = it.ended()
        assert code == 1 if verb == "apply" else code == 0, said  # other is not as it was applied
    assert states(lab) == {"db": "Ready", "web": "Running", "of-web": "Running", "other": "Stopped"}
    assert lab.running("web") != before
    lab.converge(*documents)


def test_a_server_that_another_command_has_changed_meanwhile_is_left_alone(lab: Lab) -> None:
    lab.apply(image(), server("web"), server("beside"))
    changed = server("web", "sleep", "2000", dependsOn=after("db", "ready"))
    with applying(lab, image(), DB, changed, OF_WEB, server("beside")) as it:
        wait_until(lambda: states(lab).get("db") == "Starting")
        wait_until(lambda: lab.vsprov("stop", "web", check=False).returncode == 0)
        go(lab, "db")
        code, said = it.ended()
    assert code == 1
    assert "vsprov: Server/web: another command has changed it while this one waited\n  hint: " in said
    assert "vsprov: Server/of-web: skipped, because Server/web failed" in said
    assert states(lab) == {"db": "Ready", "web": "Stopped", "beside": "Running"}
    lab.converge(image(), DB, changed, OF_WEB, server("beside"))


def test_what_another_command_has_changed_in_a_server_meanwhile_is_not_taken_back(lab: Lab) -> None:
    def web(pids: int, *command: str) -> Document:
        return server("web", *command, resources={"pids": {"max": pids}}, dependsOn=after("db", "ready"))

    lab.apply(image(), server("web", resources={"pids": {"max": 10}}))
    changed = web(10, "sleep", "2000")
    with applying(lab, image(), DB, changed) as it:
        wait_until(lambda: states(lab).get("db") == "Starting" and it.is_waiting())
        init = lab.init("web")
        lab.apply(image(), server("web", resources={"pids": {"max": 20}}))
        go(lab, "db")
        code, said = it.ended()
    assert code == 1 and "vsprov: Server/web: another command has changed it while this one waited" in said
    assert lab.limit("web", "pids.max") == "20" and lab.init("web") == init
    lab.converge(image(), DB, changed)


def test_a_wait_for_a_server_that_is_stopped_or_removed_meanwhile_ends(lab: Lab) -> None:
    verbs = ("stop", "db"), ("delete", "server", "db", "-y")
    for verb, why in zip(verbs, ("it is stopped", "it does not exist"), strict=True):
        with applying(lab, image(), DB, WEB, OF_WEB) as it:
            wait_until(lambda: states(lab).get("db") == "Starting")
            wait_until(lambda verb=verb: lab.vsprov(*verb, check=False).returncode == 0)  # type: ignore[misc]
            code, said = it.ended()
        assert code == 1
        assert f"vsprov: Server/db: did not become ready: {why}" in said
        assert "vsprov: Server/web: skipped, because Server/db did not become ready" in said
        assert "vsprov: Server/of-web: skipped, because Server/web failed" in said
        assert lab.running("web") is None


def test_an_apply_that_is_killed_while_it_waits_is_finished_by_the_next(lab: Lab) -> None:
    with applying(lab, image(), DB, WEB, OF_WEB) as it:
        wait_until(lambda: states(lab) == {"db": "Starting"} and it.is_waiting())
        it.process.kill()
        it.ended()
    go(lab, "db")
    lab.converge(image(), DB, WEB, OF_WEB)
    assert states(lab) == {"db": "Ready", "web": "Running", "of-web": "Running"}


def test_what_fails_at_first_is_not_tried_again_and_networks_are_as_those_need_them_that_wait(
    shared_net: NetworkLab,
) -> None:
    lab, lan = shared_net.lab, network("lan", "10.77.0.0/24")
    ports = [{"hostPort": 8080, "port": 80}]
    web = idle("web", "lan", dependsOn=after("db", "ready"), ports=ports)
    bad = server("bad", "/nothing/here")
    good = (image(), lan, idle("db", "lan", readiness=READY), web, server("beside"))
    of_bad = server("of-bad", dependsOn=[*after("db", "ready"), {"name": "bad"}])
    with applying(lab, *good, bad, of_bad) as it:
        go(lab, "db")
        code, said = it.ended()
    assert code == 1 and said.count("Server/bad: start") == 1
    assert "vsprov: Server/of-bad: skipped, because Server/bad failed" in said
    assert states(lab) == {"db": "Ready", "web": "Running", "beside": "Running"}
    left = lab.plan(*good, bad, of_bad)["resource_changes"]
    assert [change["address"] for change in left] == ["Server/bad", "Server/of-bad"]
    assert lab.is_settled(*good)
    lab.vsprov("destroy", "-y", "-", input=to_yaml(*good))


def test_a_server_that_does_not_become_ready_fails_the_apply_with_its_last_words(lab: Lab) -> None:
    slow = server("slow", "sh", "-c", "echo still busy; exec sleep 1000", readiness=READY)
    done = lab.apply(image(), slow, flags=("--wait", "--wait-timeout", "3s"), check=False)
    assert done.returncode == 1
    late = "did not become ready within 3s: /tmp/go: No such file or directory"
    assert f"vsprov: Server/slow: {late}\n  slow: still busy" in done.stderr
    done = lab.vsprov("restart", "slow", "--wait", "--wait-timeout", "3s", "-o", "json", check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["notReady"] == {"slow": late}


def test_a_server_that_ends_before_it_is_ready_fails_the_apply_at_once(lab: Lab) -> None:
    dies = server("a", "sh", "-c", f"{WAITS}; echo goodbye; exit 7", readiness=READY)
    with applying(lab, image(), dies, flags=("--wait",)) as it:
        wait_until(it.is_waiting)
        fifo = lab.root("a") / "tmp/fifo"
        wait_until(fifo.exists)
        fifo.write_text("\n")
        code, said = it.ended()
    assert code == 1
    assert "vsprov: Server/a: did not become ready: Exited (7)\n  a: goodbye" in said


def test_a_server_that_fails_at_first_and_is_restarted_gets_ready(lab: Lab) -> None:
    script = (
        f"if test -e /srv/again; then touch /tmp/go; exec sleep 1000; fi; touch /srv/again; {WAITS}; exit 1"
    )
    restart = {"policy": "on-failure", "delay": "100ms"}
    flaky = server("a", "sh", "-c", script, restart=restart, readiness=READY)
    with applying(lab, image(), flaky, flags=("--wait",)) as it:
        wait_until(it.is_waiting)
        fifo = lab.root("a") / "tmp/fifo"
        wait_until(fifo.exists)
        fifo.write_text("\n")
        it.succeeds()
    assert states(lab)["a"] == "Ready"


def test_a_wait_ends_although_the_keeper_is_killed_meanwhile(lab: Lab) -> None:
    for flags, more in ((("--wait",), ()), ((), (server("web", dependsOn=after("a", "ready")),))):
        with applying(lab, image(), server("a", readiness=READY), *more, flags=flags) as it:
            wait_until(lambda it=it: states(lab).get("a") == "Starting" and it.is_waiting())  # type: ignore[misc]
            keeper = lab.keeper()
            pidfd = os.pidfd_open(keeper)
            os.kill(keeper, signal.SIGKILL)
            wait_for(pidfd)
            go(lab, "a")
            it.succeeds()
            assert states(lab)["a"] == "Ready"
            lab.vsprov("destroy", "--all", "-y")


@pytest.mark.parametrize("flags", [("--wait",), ()])
def test_an_apply_that_waits_sleeps_until_something_happens(lab: Lab, flags: tuple[str, ...]) -> None:
    def switches(pid: int) -> str:
        text = Path(f"/proc/{pid}/status").read_text()
        return text.split("voluntary_ctxt_switches:")[1].split()[0]

    more = () if flags else (server("web", dependsOn=after("a", "ready")),)
    with applying(lab, image(), server("a", readiness=READY), *more, flags=flags) as it:
        wait_until(lambda: os.pread(it.said.fileno(), 1000, 0).find(b"waiting until") >= 0)
        wait_until(lambda: "poll" in Path(f"/proc/{it.process.pid}/wchan").read_text())
        before = switches(it.process.pid)
        assert not select.select([], [], [], 3.0)[0]
        assert switches(it.process.pid) == before
        go(lab, "a")
        it.succeeds()


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (
            ("--wait",),
            ["Server/a: not ready yet; all changes were made", "  hint: vsprov wait --for ready a"],
        ),
        (
            (),
            [
                "Server/a: not ready yet",
                "Server/web: not begun",
                "  hint: the same command again does what is left",
            ],
        ),
    ],
)
def test_an_interrupted_wait_leaves_the_servers_as_they_are_and_says_what_is_left(
    lab: Lab, flags: tuple[str, ...], left: list[str]
) -> None:
    more = () if flags else (server("web", dependsOn=after("a", "ready")),)
    with applying(lab, image(), server("a", readiness=READY), *more, flags=flags) as it:
        wait_until(lambda: states(lab).get("a") == "Starting" and it.is_waiting())
        os.kill(it.process.pid, signal.SIGINT)
        code, said = it.ended()
        assert code == 130, said
        assert said.splitlines()[-len(left) - 1 :] == ["vsprov: interrupted", *left]
        assert states(lab) == {"a": "Starting"}
        (lab.root("a") / "tmp/go").touch()
        lab.converge(image(), server("a", readiness=READY), *more)
        wait_until(lambda: states(lab)["a"] == "Ready")


def test_servers_stop_before_what_they_depend_on(lab: Lab) -> None:
    stops = "trap 'exit 0' TERM; touch /tmp/go; sleep 1000 & wait"
    lab.apply(
        image(),
        server("a", "sh", "-c", stops, dependsOn=after("b", "ready")),
        server("b", "sh", "-c", stops, dependsOn=after("c", "ready"), readiness=READY),
        server("c", "sh", "-c", stops, readiness=READY),
    )
    wait_until(lambda: (lab.root("a") / "tmp/go").exists())
    done = lab.vsprov("stop", "--all")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()[:3]] == [
        "Server/a",
        "Server/b",
        "Server/c",
    ]


def test_a_restore_waits_for_what_its_server_depends_on_without_the_lock(lab: Lab) -> None:
    lab.apply(image(), DB, WEB, server("other"), flags=("--wait-timeout", "0s"), check=False)
    go(lab, "db")
    lab.converge(image(), DB, WEB, server("other"))
    lab.vsprov("snapshot", "create", "web", "before")
    (lab.root("db") / "tmp/go").unlink()
    wait_until(lambda: states(lab)["db"] != "Ready")
    before = lab.init("web")
    with applying(lab, verb=("snapshot", "restore", "web", "before", "-y")) as it:
        wait_until(it.is_waiting)
        lab.vsprov("stop", "other")  # which needs the lock
        assert lab.init("web") == before
        (lab.root("db") / "tmp/go").touch()
        it.succeeds()
    assert lab.init("web") != before
