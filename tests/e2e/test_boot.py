"""boot and shutdown: the same servers come back after the host was down, in order, without manifests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.networks import NetworkLab, idle, network, network_lab
from tests.e2e.reboot import lose_power
from tests.e2e.verbs import HOST, web
from tests.lab import Lab, pool, server, to_yaml, wait_for, wait_until
from vsprov.store.disk import marks


@pytest.fixture
def net() -> Iterator[NetworkLab]:
    with network_lab() as made:
        yield made


def starting(lab: Lab) -> set[str]:
    """The servers that `get` says start with the host."""
    items = json.loads(lab.vsprov("get", "servers", "-o", "json").stdout)["items"]
    return {item["metadata"]["name"] for item in items if item["status"]["startsWithHost"]}


def wait_for_end(lab: Lab, name: str) -> None:
    """Kill the init of a server, and wait until it has ended."""
    pidfd = os.pidfd_open(lab.init(name).pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    wait_for(pidfd)


def boot(lab: Lab, code: int = 0, verb: str = "boot") -> dict[str, Any]:
    done = lab.vsprov(verb, "-o", "json", check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def states(lab: Lab) -> dict[str, str]:
    items = json.loads(lab.vsprov("get", "servers", "-o", "json").stdout)["items"]
    return {item["metadata"]["name"]: item["status"]["state"] for item in items}


def in_order(lab: Lab, said: str, word: str) -> list[str]:
    """The servers in the order in which they have started or stopped, one at a time."""
    lines = [line for line in said.splitlines() if f": {word}" in line]
    return [line.partition(":")[0].removeprefix("Server/") for line in lines]


def test_a_boot_of_an_instance_without_servers_does_nothing_and_leaves_nothing(lab: Lab) -> None:
    assert boot(lab)["done"] == []
    assert boot(lab, verb="shutdown")["done"] == []
    assert lab.vsprov.left() == []


def test_after_a_power_cut_boot_starts_what_ran_with_its_files_limits_and_pool(lab: Lab) -> None:
    documents = (
        HOST,
        pool("team", memory={"max": "256Mi"}),
        web(quota="team", resources={"pids": {"max": 40}}),
        web("web2"),
    )
    lab.converge(*documents)
    for name in ("web1", "web2"):
        lab.shell(name, "echo kept > /root/note")
    lose_power(lab)
    assert states(lab) == {"web1": "Stopped", "web2": "Stopped"}
    assert boot(lab) == {
        "done": ["Quota/team", "Server/web1", "Server/web2"],
        "already": [],
        "errors": [],
        "exits": {},
        "unhandledSignals": {},
        "notReady": {},
    }
    assert [lab.shell(name, "cat /root/note") for name in ("web1", "web2")] == ["kept\n", "kept\n"]
    assert lab.limit("team", "memory.max") == str(256 << 20)
    assert lab.limit("team/web1", "pids.max") == "40"
    assert lab.is_settled(*documents)
    again = boot(lab)
    assert (again["done"], again["already"]) == ([], ["Server/web1", "Server/web2"])


def test_a_pool_without_its_group_is_shown_and_can_be_removed_but_not_from_under_its_servers(
    lab: Lab,
) -> None:
    documents = HOST, pool("team", memory={"max": "256Mi"}), web(quota="team")
    lab.converge(*documents)
    lose_power(lab)
    (found,) = json.loads(lab.vsprov("get", "quotas", "-o", "json").stdout)["items"]
    assert found["spec"] == {"scope": "pool", "memory": {"max": 256 << 20}}
    text = "used by Server/web1"
    refused = lab.vsprov("destroy", "-y", "-", input=to_yaml(documents[1]), check=False)
    assert refused.returncode == 1 and text in refused.stderr
    lab.vsprov("destroy", "-y", "-", input=to_yaml(*documents))
    assert lab.vsprov.left() == []


def test_everything_can_be_destroyed_after_a_reboot(lab: Lab) -> None:
    lab.converge(HOST, pool("team", memory={"max": "256Mi"}), web(quota="team"), web("web2"))
    lose_power(lab)
    lab.vsprov("destroy", "--all", "-y")
    assert lab.vsprov.left() == []


def test_start_of_a_server_in_a_pool_makes_the_pool_again_after_a_reboot(lab: Lab) -> None:
    documents = HOST, pool("team", memory={"max": "256Mi"}), web(quota="team")
    lab.converge(*documents)
    lose_power(lab)
    lab.vsprov("start", "web1")
    assert lab.limit("team", "memory.max") == str(256 << 20)
    assert lab.is_settled(*documents)


def test_a_pool_that_was_made_before_pools_were_recorded_is_recorded_by_the_next_apply(lab: Lab) -> None:
    documents = HOST, pool("team", memory={"max": "256Mi"}), web(quota="team")
    lab.converge(*documents)
    os.unlink(lab.vsprov.root / "pools/team.json")
    assert lab.differences(*documents) == {
        "Quota/team /status/record": ("missing", "as in the manifest", "live")
    }
    lab.converge(*documents)
    lose_power(lab)
    assert boot(lab)["done"] == ["Quota/team", "Server/web1"]


def test_boot_starts_by_priority_and_dependency_and_shutdown_stops_in_the_reverse_order(lab: Lab) -> None:
    def ranked(name: str, priority: int, *needs: str) -> Any:
        return server(name, boot={"priority": priority}, dependsOn=[{"name": each} for each in needs])

    documents = (
        HOST,
        ranked("last", -5),
        ranked("usual", 0),
        ranked("first", 10, "store"),
        ranked("store", -100),  # as important as what depends on it
    )
    lab.converge(*documents)
    said = lab.vsprov("shutdown").stderr
    assert in_order(lab, said, "stopped") == ["last", "usual", "first", "store"]
    assert set(states(lab).values()) == {"Stopped"}
    said = lab.vsprov("boot").stderr
    assert in_order(lab, said, "started") == ["store", "first", "usual", "last"]
    assert lab.is_settled(*documents)


def test_boot_waits_for_the_conditions_of_dependencies(lab: Lab) -> None:
    ready = {"file": "/root/ready", "interval": "100ms"}
    documents = (
        HOST,
        server("db", "sh", "-c", "sleep 0.5; touch /root/ready; exec sleep infinity", readiness=ready,
               ephemeral=True),
        server("web", dependsOn=[{"name": "db", "condition": "ready"}], boot={"priority": 5}),
        server("other"),
    )  # fmt: skip
    lab.apply(*documents)
    lab.vsprov("shutdown")
    lose_power(lab)
    said = lab.vsprov("boot").stderr
    assert in_order(lab, said, "started") == ["db", "web", "other"]
    assert states(lab) == {"db": "Ready", "other": "Running", "web": "Running"}


@contextmanager
def booting(lab: Lab, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """A `vsprov boot` that is under way."""
    command = lab.vsprov.command("boot", *flags)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=lab.vsprov.environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


READY = {"file": "/tmp/ready", "interval": "100ms"}


def test_other_commands_can_work_while_boot_waits_for_a_condition(lab: Lab) -> None:
    documents = (
        HOST,
        server("db", readiness=READY, ephemeral=True),
        server("web", dependsOn=[{"name": "db", "condition": "ready"}]),
        server("of-web", dependsOn=[{"name": "web"}]),
        server("unwanted", dependsOn=[{"name": "db", "condition": "ready"}]),
        server("other"),
        server("later", boot={"priority": -1}),
    )
    lab.apply(*documents[:2])
    (lab.root("db") / "tmp/ready").touch()
    lab.converge(*documents)
    lab.vsprov("shutdown")
    lose_power(lab)
    with booting(lab) as process:
        wait_until(lambda: lab.running("other") is not None and lab.running("db") is not None)
        # They need the lock, for which they do not wait.
        wait_until(lambda: lab.vsprov("stop", "other", check=False).returncode == 0)
        lab.vsprov("stop", "unwanted")
        lab.apply(HOST, server("new"), flags=("--set-name", "b"))
        assert process.poll() is None
        assert [name for name in ("web", "of-web", "later") if lab.running(name)] == []
        (lab.root("db") / "tmp/ready").touch()
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said
    started = in_order(lab, said, "started")
    assert (sorted(started[:2]), started[2:]) == (["db", "other"], ["web", "of-web", "later"])
    assert states(lab) == {
        "db": "Ready", "web": "Running", "of-web": "Running", "unwanted": "Stopped", "other": "Stopped",
        "later": "Running", "new": "Running",
    }  # fmt: skip


def test_a_condition_that_does_not_come_holds_up_only_those_that_wait_for_it(lab: Lab) -> None:
    documents = (
        HOST,
        server("db", readiness=READY, ephemeral=True),
        server("migration", "sh", "-c", "test ! -e /root/done && touch /root/done", init={"oneshot": True}),
        server("web", dependsOn=[{"name": "db", "condition": "ready"}]),
        server("of-web", dependsOn=[{"name": "web"}]),
        server("app", dependsOn=[{"name": "migration", "condition": "completed"}]),
        server("other", dependsOn=[{"name": "db"}]),
        server("later", boot={"priority": -1}),
    )
    lab.apply(*documents[:3], check=False)
    (lab.root("db") / "tmp/ready").touch()
    lab.apply(*documents, check=False)
    lab.vsprov("shutdown")
    lose_power(lab)
    done = lab.vsprov("boot", "--wait-timeout", "1s", "-o", "json", check=False)
    assert done.returncode == 1
    errors = {each["address"]: each["message"] for each in json.loads(done.stdout)["errors"]}
    assert errors.pop("Server/db").startswith("Server/db: did not become ready within 1s")
    assert errors == {
        "Server/migration": "Server/migration: did not complete: Exited (1)",
        "Server/web": "Server/web: skipped, because Server/db did not become ready",
        "Server/of-web": "Server/of-web: skipped, because Server/web cannot start",
        "Server/app": "Server/app: skipped, because Server/migration did not complete",
    }
    assert lab.init("db")
    assert {name: state for name, state in states(lab).items() if name != "db"} == {
        "migration": "Exited (1)", "web": "Stopped", "of-web": "Stopped", "app": "Stopped",
        "other": "Running", "later": "Running",
    }  # fmt: skip


def test_a_boot_that_waits_is_killed_and_the_next_one_goes_on(lab: Lab) -> None:
    documents = (
        HOST,
        server("db", readiness=READY, ephemeral=True),
        server("web", dependsOn=[{"name": "db", "condition": "ready"}]),
    )
    lab.apply(*documents[:2])
    (lab.root("db") / "tmp/ready").touch()
    lab.apply(*documents)
    lab.vsprov("shutdown")
    lose_power(lab)
    with booting(lab) as process:
        wait_until(lambda: states(lab)["db"] in ("Starting", "NotReady") and is_free(lab))
        process.kill()
    (lab.root("db") / "tmp/ready").touch()
    lab.vsprov("boot")
    assert states(lab) == {"db": "Ready", "web": "Running"}


def is_free(lab: Lab) -> bool:
    """Whether no command holds the lock."""
    return (lab.vsprov.run / "lock").read_text() == ""


def test_boot_leaves_alone_what_should_not_run(lab: Lab) -> None:
    documents = (
        HOST,
        server("off", state="Stopped"),
        server("manual", boot={"autostart": False}),
        server("wanted"),
        server("paused"),
        server("eager", restart="always"),
    )
    lab.converge(*documents)
    lab.vsprov("start", "off")  # its manifest still wants it stopped
    lab.vsprov("stop", "paused", "eager")
    lab.vsprov("shutdown")
    lose_power(lab)
    assert starting(lab) == {"eager", "wanted"}
    assert boot(lab)["done"] == ["Server/eager", "Server/wanted"]
    run = {name for name, state in states(lab).items() if state == "Running"}
    assert run == {"eager", "wanted"}
    lab.vsprov("start", "paused")
    lab.vsprov("shutdown")
    assert boot(lab)["done"] == ["Server/eager", "Server/paused", "Server/wanted"]


def test_shutdown_also_ends_the_wait_of_a_server_for_its_restart(lab: Lab) -> None:
    patient = {"policy": "always", "delay": "1h", "maxDelay": "1h"}
    documents = HOST, server("ill", restart=patient), server("well")
    lab.converge(*documents)
    wait_for_end(lab, "ill")
    wait_until(lambda: states(lab)["ill"].startswith("Restarting"))
    lab.vsprov("shutdown")
    assert states(lab) == {"ill": "Stopped", "well": "Stopped"}
    assert boot(lab)["done"] == ["Server/ill", "Server/well"]


def test_what_the_next_boot_will_do_with_a_server_follows_its_manifest_and_a_plan_shows_it(lab: Lab) -> None:
    def kept() -> str | None:
        return marks.read_mark(str(lab.directory("web1")), "stopped")

    lab.converge(HOST, web())
    assert kept() is None
    lab.vsprov("stop", "web1")
    assert kept() == "command"
    stopped = web(state="Stopped")
    assert lab.differences(HOST, stopped) == {
        "Server/web1 /status/whenHostStarts": ("stopped by a command", "stopped", "none")
    }
    lab.converge(HOST, stopped)
    assert kept() == "manifest"
    lab.vsprov("start", "web1")
    assert kept() == "manifest"
    assert lab.differences(HOST, web()) == {
        "Server/web1 /status/whenHostStarts": ("stopped", "started", "none")
    }
    lab.converge(HOST, web())
    assert kept() is None
    lab.vsprov("shutdown")
    assert kept() is None
    assert "Server/web1: was not running" in lab.vsprov("stop", "web1").stderr  # from now on it is meant to
    assert kept() == "command"


def test_a_server_that_cannot_start_holds_up_only_those_that_depend_on_it(lab: Lab, tmp_path: Any) -> None:
    source = tmp_path / "data"
    source.mkdir()
    broken = server("broken", mounts=[{"type": "bind", "source": str(source), "target": "/data"}])
    lab.converge(HOST, broken, server("user", dependsOn=[{"name": "broken"}]), server("other"))
    lab.vsprov("shutdown")
    source.rmdir()
    found = boot(lab, code=1)
    assert found["done"] == ["Server/other"]
    errors = {error["address"]: error["message"] for error in found["errors"]}
    assert errors.keys() == {"Server/broken", "Server/user"}
    assert "No such file or directory" in errors["Server/broken"]
    assert errors["Server/user"] == "Server/user: skipped, because Server/broken cannot start"
    assert states(lab) == {"broken": "Stopped", "other": "Running", "user": "Stopped"}


def test_a_server_whose_record_is_damaged_does_not_hold_up_the_others(lab: Lab) -> None:
    lab.converge(HOST, web(), web("web2"))
    lose_power(lab)
    (lab.directory("web1") / "server.json").write_text("{")
    found = boot(lab, code=1)
    assert found["done"] == ["Server/web2"]
    assert [error["address"] for error in found["errors"]] == ["Server/web1"]


def test_shutdown_has_a_time_for_all_servers_together(lab: Lab) -> None:
    deaf = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done"
    slow = [server(f"slow{n}", "/bin/sh", "-c", deaf, init={"stopTimeout": "1h"},
                   boot={"priority": n}) for n in range(3)]  # fmt: skip
    lab.apply(HOST, *slow)
    lab.wait_until(lambda: all(lab.console(f"slow{n}") == "ready\n" for n in range(3)))
    lab.vsprov("shutdown", "--timeout", "200ms")
    assert set(states(lab).values()) == {"Stopped"}


def test_the_same_addresses_come_back_with_the_networks(net: NetworkLab) -> None:
    lab = net.lab
    documents = HOST, network("lan", "10.20.0.0/24", nat=True), idle("a", "lan"), idle("b", "lan")
    lab.converge(*documents)

    def addresses() -> dict[str, list[str]]:
        items = json.loads(lab.vsprov("get", "servers", "-o", "json").stdout)["items"]
        return {item["metadata"]["name"]: item["status"]["addresses"] for item in items}

    before, links = addresses(), net.links().keys()
    assert all(before.values())
    lose_power(lab, net.world.host)
    assert net.links() == {}
    assert boot(lab)["errors"] == []
    assert (addresses(), net.links().keys()) == (before, links)
    assert lab.is_settled(*documents)
