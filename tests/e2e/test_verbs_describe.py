"""describe."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.e2e.networks import NetworkLab, idle, network
from tests.e2e.verbs import HOST
from tests.lab import Lab, image, pool, server, to_yaml

HELLO = "echo hello; while :; do sleep 0.1; done"


def description(lab: Lab, *words: str) -> Any:
    return json.loads(lab.vsprov("describe", *words, "-o", "json").stdout)


def section(text: str, title: str) -> list[str]:
    """The lines of a section."""
    found = re.search(rf"^{title}:\n((?:  .*\n)+)", text, re.MULTILINE)
    return [line.strip() for line in found[1].splitlines()] if found else []


@pytest.fixture(scope="module")
def described(shared_lab: Lab) -> Lab:
    shared_lab.apply(
        HOST,
        pool("all", memory={"max": "512Mi"}),
        server(
            "web1",
            "/bin/sh",
            "-c",
            HELLO,
            labels={"tier": "web"},
            quota="all",
            resources={"memory": {"max": "64Mi"}, "pids": {"max": 20}},
            mounts=[{"type": "tmpfs", "target": "/data", "size": "1Mi"}],
        ),
        server("old", state="Stopped"),
        image("tool"),
        server("tool"),
    )
    shared_lab.wait_until(lambda: shared_lab.console("all/web1") == "hello\n")
    return shared_lab


def test_a_server_is_described_by_what_it_is_uses_and_does(described: Lab) -> None:
    text = described.vsprov("describe", "web1").stdout
    init = described.init("all/web1").pid
    for line in (
        r"Name: +web1",
        r"Labels: +tier=web",
        r"State: +Running since \S+Z \(\w+\)",
        rf"PID: +{init}",
        r"Pool: +all",
        rf"Command: +/bin/sh -c {re.escape(HELLO)}",
    ):
        assert re.search(rf"^{line}$", text, re.MULTILINE), line
    resources = section(text, "Resources")
    assert any(re.fullmatch(r"memory +\S+ +64Mi", line) for line in resources)
    assert any(re.fullmatch(r"pids +\d+ +20", line) for line in resources)
    assert section(text, "Mounts")[1].split() == ["/data", "tmpfs", "-"]
    assert any(line.split()[:2] == [str(init), "1"] for line in section(text, "Processes"))
    assert section(text, "Last lines of the log") == ["hello"]
    assert section(text, "Changed since it was applied") == []


def test_what_was_changed_by_hand_is_shown_as_the_plan_shows_it(described: Lab) -> None:
    limit = described.group("all/web1", "pids") / "pids.max"
    limit.write_text("33")
    try:
        text = described.vsprov("describe", "server", "web1").stdout
        assert section(text, "Changed since it was applied") == ["spec.resources.pids.max: 33 → 20 (live)"]
        assert description(described, "web1")["details"]["differences"] == [
            {"path": "spec.resources.pids.max", "before": "33", "after": "20", "disruption": "live"}
        ]
    finally:
        limit.write_text("20")


def test_a_server_that_was_stopped_on_purpose_is_not_described_as_changed(described: Lab) -> None:
    found = description(described, "old")
    assert found["status"]["state"] == "Stopped"
    assert found["details"] == {
        "command": ["sleep", "infinity"], "differences": [], "processes": [], "exits": [], "log": []
    }  # fmt: skip


def test_what_the_image_would_run_is_described_as_the_command(lab: Lab) -> None:
    boots = server("boots", state="Stopped")
    boots["spec"]["init"] = {"style": "systemd"}
    lab.apply(HOST, boots)
    assert description(lab, "boots")["details"]["command"] == ["/sbin/init"]
    assert re.search("^Command: +/sbin/init$", lab.vsprov("describe", "boots").stdout, re.MULTILINE)


def test_objects_of_other_kinds_are_described_with_their_users(described: Lab) -> None:
    several = description(described, "image/host", "quota/all")["items"]
    assert [one["kind"] for one in several] == ["Image", "Quota"]
    host, all_ = several
    assert host["details"]["usedBy"] == ["Server/old", "Server/tool", "Server/web1"]
    assert host["details"]["size"] > 0
    assert [one["metadata"]["name"] for one in all_["details"]["servers"]] == ["web1"]
    text = described.vsprov("describe", "image", "host").stdout
    assert re.search(r"^Used by: +Server/old, Server/tool, Server/web1$", text, re.MULTILINE)
    assert section(described.vsprov("describe", "all").stdout, "Servers")[1].startswith("web1  Running")


def test_the_document_is_that_of_get_with_details(described: Lab) -> None:
    got = json.loads(described.vsprov("get", "server", "old", "-o", "json").stdout)
    found = description(described, "server/old")
    del found["details"]
    assert found == got


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["tool"], 64, "several objects have this name\n  hint: use server/tool or image/tool"),
        (["webl"], 1, "webl: not found\n  hint: did you mean web1?"),
        (["server", "web9"], 1, "Server/web9: not found"),
        (["server"], 64, "describe server: no name given"),
        (["pod", "a"], 64, "describe pod: no such kind"),
    ],
)
def test_what_cannot_be_described_is_said(described: Lab, words: list[str], code: int, said: str) -> None:
    done = described.vsprov("describe", *words, check=False)
    assert done.returncode == code and said in done.stderr


def test_a_server_that_has_ended_is_described_with_its_exits_and_as_changed(lab: Lab) -> None:
    lab.apply(HOST, server("bad", "sh", "-c", "exit 3"), check=False)
    lab.wait_until(lambda: description(lab, "bad")["status"]["lastExit"] is not None)
    (state,) = description(lab, "bad")["details"]["differences"]
    assert state["path"] == "spec.state" and state["after"] == "Running"
    text = lab.vsprov("describe", "bad").stdout
    assert re.search(r"^State: +Exited \(3\) \w+ ago$", text, re.MULTILINE)
    assert section(text, "Exits")[0].startswith("exited 3 at ")
    lab.vsprov("stop", "bad")
    assert description(lab, "bad")["details"]["differences"] == []


def test_networks_and_the_interfaces_of_servers_are_described(shared_net: NetworkLab) -> None:
    lab = shared_net.lab
    lan = network("lan", "10.76.0.0/24")
    lab.apply(HOST, lan, idle("a", {"name": "eth0", "network": "lan", "addresses": ["10.76.0.9"]}))
    inside = shared_net.inside("a")["eth0"]
    line = section(lab.vsprov("describe", "a").stdout, "Networks")[1].split()
    assert line[:5] == ["lan", "eth0", "up", "10.76.0.9/24", inside["address"]]
    text = lab.vsprov("describe", "network", "lan").stdout
    assert re.search(r"^Subnets: +10.76.0.0/24$", text, re.MULTILINE)
    assert re.search(r"^Servers: +a$", text, re.MULTILINE)
    assert section(text, "Interfaces of running servers")[1].split()[:2] == ["a", "eth0"]
    lab.vsprov("destroy", "-y", "-", input=to_yaml(HOST, lan, idle("a", "lan")))


@pytest.mark.parametrize(
    ("words", "offered"),
    [("delete quota ", {"all"}), ("describe quota ", {"all"}), ("describe w", {"web1"})],
)
def test_names_of_pools_and_servers_are_completed(described: Lab, words: str, offered: set[str]) -> None:
    typed = f"vsprov {words}"
    told = described.vsprov(
        env={
            "_VSPROV_COMPLETE": "bash_complete",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(typed.count(" ")),
            "VSPROV_INSTANCE": described.vsprov.name,
            "VSPROV_ROOT": str(described.vsprov.root),
        }
    )
    assert set(told.stdout.split()) == {f"plain,{name}" for name in offered}
