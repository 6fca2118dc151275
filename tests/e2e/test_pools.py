"""Servers that share a quota: one parent group, its limits over those of its servers, the host's promises."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Document, Lab, image, pool, server, status, to_yaml, version, wait_until

# Forks as often as it may, and says how often that was.
FORK = (
    "/usr/bin/env",
    "python3",
    "-c",
    """
import os, time
for number in range(20):
    try:
        if not os.fork():
            time.sleep(1e6)
    except OSError:
        break
print("forked", number, flush=True)
time.sleep(1e6)
""",
)
SPIN = ("/bin/sh", "-c", "while :; do :; done")


def team(**limits: Any) -> Document:
    return pool("team", **limits)


def member(name: str, *command: str, **spec: Any) -> Document:
    return server(name, *command, quota="team", **spec)


def test_servers_of_a_pool_are_inside_its_group_of_every_hierarchy(lab: Lab) -> None:
    lab.converge(
        image(), team(memory={"max": "96Mi"}, cpu={"limit": "1500m", "weight": 150}, pids={"max": 60}),
        member("a", resources={"memory": {"max": "32Mi"}}), member("b"), server("alone"),
    )  # fmt: skip
    assert lab.limit("team", "memory.max") == str(96 << 20)
    assert lab.limit("team", "cpu.limit") == "150000 100000"
    assert lab.limit("team", "cpu.weight") == "150"
    assert lab.limit("team", "pids.max") == "60"
    assert lab.limit("team/a", "memory.max") == str(32 << 20)
    assert lab.limit("team/b", "memory.max") == "max"
    assert lab.limit("alone", "memory.max") == "max"
    for name in ("a", "b"):
        text = Path(f"/proc/{lab.init(f'team/{name}').pid}/cgroup").read_text()
        for controller in ("memory", "cpu", "pids"):
            if version(controller) == 1:
                assert f":{controller}:/{lab.vsprov.name}/team/{name}\n" in text
        assert f"0::/{lab.vsprov.name}/team/{name}/payload\n" in text


def test_a_pool_without_servers_is_made_and_removed(lab: Lab) -> None:
    lab.converge(team(memory={"max": "96Mi"}))
    assert lab.limit("team", "memory.max") == str(96 << 20)
    lab.vsprov("destroy", "-y", "-", input=to_yaml(team()))
    assert not lab.group("team").exists() and not lab.group("team", "memory").exists()


def test_a_pool_is_changed_while_its_servers_run(lab: Lab) -> None:
    lab.apply(image(), team(memory={"max": "96Mi"}), member("a"), member("b"))
    before = lab.inits("team/a", "team/b")
    changed = (
        image(),
        team(memory={"max": "128Mi"}, pids={"max": 50}, cpu={"weight": 50}),
        member("a"),
        member("b"),
    )
    assert lab.differences(*changed) == {
        "Quota/team /spec/memory/max": (96 << 20, 128 << 20, "live"),
        "Quota/team /spec/pids/max": (None, 50, "live"),
        "Quota/team /spec/cpu/weight": (None, 50, "live"),
    }
    lab.converge(*changed)
    assert lab.limit("team", "memory.max") == str(128 << 20)
    assert lab.limit("team", "pids.max") == "50"
    assert lab.limit("team", "cpu.weight") == "50"
    assert lab.inits("team/a", "team/b") == before


@pytest.mark.vm_subset
@pytest.mark.parametrize(
    ("small", "large", "knob", "texts"),
    [
        (
            {"cpu": {"limit": "300m"}},
            {"cpu": {"limit": "1200m"}},
            "cpu.limit",
            ("30000 100000", "120000 100000"),
        ),
        ({"cpu": {"cpus": "0"}}, {"cpu": {"cpus": "0-1"}}, "cpu.cpus", ("0", "0-1")),
        (
            {"memory": {"max": "64Mi"}},
            {"memory": {"max": "128Mi"}},
            "memory.max",
            (str(64 << 20), str(128 << 20)),
        ),
    ],
    ids=["cpu.limit", "cpu.cpus", "memory.max"],
)
def test_a_pool_grows_and_shrinks_together_with_its_servers(
    lab: Lab, small: Any, large: Any, knob: str, texts: tuple[str, str]
) -> None:
    """The kernel refuses a child beyond its parent, and a parent below its child."""
    if knob == "cpu.cpus" and (os.cpu_count() or 1) < 2:
        large, texts = small, ("0", "0")
    lab.apply(image(), team(**small), member("a", resources=small))
    init = lab.init("team/a")
    for limits, text in ((large, texts[1]), (small, texts[0]), (large, texts[1])):
        lab.converge(image(), team(**limits), member("a", resources=limits))
        assert (lab.limit("team", knob), lab.limit("team/a", knob)) == (text, text)
    lab.converge(image(), team(), member("a"))
    lab.converge(image(), team(**small), member("a", resources=small))
    assert (lab.limit("team", knob), lab.limit("team/a", knob)) == (texts[0], texts[0])
    assert lab.init("team/a") == init


def test_a_pool_on_fewer_cpus_narrows_servers_that_name_none(lab: Lab) -> None:
    if (os.cpu_count() or 1) < 2:
        return
    lab.apply(image(), team(cpu={"cpus": "0-1"}), member("a"))
    init = lab.init("team/a")
    lab.converge(image(), team(cpu={"cpus": "1"}), member("a"))
    assert status(init.pid, "Cpus_allowed_list") == "1"
    lab.converge(image(), team(cpu={"cpus": "0-1"}), member("a"))
    assert status(init.pid, "Cpus_allowed_list") == "0-1"
    assert lab.init("team/a") == init


def test_moving_to_another_pool_restarts_that_server_alone(lab: Lab) -> None:
    pools = (pool("team", memory={"max": "96Mi"}), pool("other", memory={"max": "64Mi"}))
    lab.apply(
        image(),
        *pools,
        member("a", "/bin/sh", "-c", "echo x >> /etc/count; exec sleep infinity"),
        member("b"),
    )
    wait_until(lambda: (lab.root("team/a") / "etc/count").exists())
    first, other = lab.init("team/a"), lab.init("team/b")
    moved = server("a", "/bin/sh", "-c", "echo x >> /etc/count; exec sleep infinity", quota="other")
    documents = (image(), *pools, moved, member("b"))
    assert lab.differences(*documents) == {"Server/a /spec/quota": ("team", "other", "restart")}
    lab.converge(*documents)
    assert lab.init("other/a") != first
    assert not lab.group("team/a").exists() and not lab.group("team/a", "memory").exists()
    assert lab.init("team/b") == other
    wait_until(lambda: (lab.root("other/a") / "etc/count").read_text() == "x\nx\n")  # the upper layer is kept
    lab.converge(image(), *pools, server("a"), member("b"))
    assert lab.init("a") and not lab.group("other/a").exists()


def test_a_pool_goes_when_its_last_server_has_left_it(lab: Lab) -> None:
    lab.apply(image(), team(), member("a"))
    lab.vsprov("apply", "-y", "--prune", "-", input=to_yaml(image(), server("a")))
    assert not lab.group("team").exists()
    assert lab.is_settled(image(), server("a"))


def test_a_pool_with_servers_that_stay_is_not_removed(lab: Lab) -> None:
    lab.apply(image(), team(), member("a"))
    init = lab.init("team/a")
    done = lab.vsprov("destroy", "-y", "-", input=to_yaml(team()), check=False)
    assert done.returncode == 1
    assert "Quota/team" in done.stderr and "used by Server/a" in done.stderr
    assert lab.init("team/a") == init


def test_what_a_pool_may_have_binds_its_servers_together(lab: Lab) -> None:
    """Six processes for both, and an unlimited child is limited all the same."""
    lab.apply(image(), team(pids={"max": 6}), member("b"))
    lab.apply(image(), team(pids={"max": 6}), member("a", *FORK), member("b"))
    wait_until(lambda: lab.console("team/a") != "")
    assert lab.console("team/a") == "forked 4\n"
    assert (lab.group("team", "pids") / "pids.current").read_text() == "6\n"


# -- reservations


@pytest.mark.parametrize(
    "parts",
    [
        {"a": 0.25, "b": 0, "c": 0},
        {"a": 0.75, "b": 0},
        {"a": 0.5, "b": 0.25},
        {"a": 0.6, "b": 0.2, "c": 0, "d": 0, "e": 0},
    ],
)
def test_a_weight_gives_at_least_what_is_reserved(lab: Lab, parts: dict[str, float]) -> None:
    """Parts are of all CPUs together; under contention a server's is its weight's share of all weights."""
    cpus = os.cpu_count() or 1
    documents = [
        server(name, resources={"cpu": {"reservation": f"{int(part * cpus * 1000)}m"}} if part else {})
        for name, part in parts.items()
    ]
    lab.converge(image(), *documents)
    weights = {name: float(lab.limit(name, "cpu.weight")) for name in parts}
    for name, part in parts.items():
        assert weights[name] / sum(weights.values()) >= part - 0.002, weights
        if not part:
            assert weights[name] == 100


def test_without_reservations_weights_are_as_declared(lab: Lab) -> None:
    lab.converge(image(), server("a"), server("b", resources={"cpu": {"weight": 10000}}))
    assert (lab.limit("a", "cpu.weight"), lab.limit("b", "cpu.weight")) == ("100", "10000")


def cpu_time(pid: int) -> int:
    """Clock ticks of user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_reservation_is_held_when_everyone_wants_the_cpu(lab: Lab) -> None:
    """All on one CPU: what is reserved is three quarters of it, what is measured must be well above half."""
    pinned = {"cpus": "0"}
    share = {"reservation": f"{750 * (os.cpu_count() or 1)}m"}
    lab.apply(
        image(),
        server("sure", *SPIN, resources={"cpu": {**pinned, **share}}),
        server("greedy", *SPIN, resources={"cpu": pinned}),
        server("hungry", *SPIN, resources={"cpu": pinned}),
    )
    pids = {name: lab.init(name).pid for name in ("sure", "greedy", "hungry")}
    begin = {name: cpu_time(pid) for name, pid in pids.items()}
    wait_until(lambda: sum(cpu_time(pid) - begin[name] for name, pid in pids.items()) >= 50)
    used = {name: cpu_time(pid) - begin[name] for name, pid in pids.items()}
    assert used["sure"] > 0.55 * sum(used.values()), used


def test_a_cpu_limit_is_held(lab: Lab) -> None:
    lab.apply(image(), server("a", *SPIN, resources={"cpu": {"limit": "100m"}}))
    pid = lab.init("a").pid
    stat = lab.group("a", "cpu") / "cpu.stat"

    def throttled() -> int:
        lines = dict(line.split() for line in stat.read_text().splitlines())
        return int(lines["nr_throttled"])

    wait_until(lambda: throttled() >= 3)
    begin, since = cpu_time(pid), time.monotonic()
    before = throttled()
    wait_until(lambda: throttled() >= before + 3)
    used, elapsed = (cpu_time(pid) - begin) / os.sysconf("SC_CLK_TCK"), time.monotonic() - since
    assert used <= 0.3 * elapsed + 0.03


def test_more_reservations_than_cpus_are_refused_and_nothing_is_made(lab: Lab) -> None:
    cpus = os.cpu_count() or 1
    lab.apply(image(), server("a", resources={"cpu": {"reservation": f"{cpus * 500}m"}}))
    init = lab.init("a")
    too_much = (
        image(),
        server("a", resources={"cpu": {"reservation": f"{cpus * 500}m"}}),
        server("b", resources={"cpu": {"reservation": f"{cpus * 600}m"}}),
    )
    said = lab.refused(*too_much)
    assert "CPU reservations add up to" in said and f"the host has {cpus} CPUs" in said
    assert "Server/b" in said
    assert not lab.group("b").exists()
    assert lab.init("a") == init


def test_reservations_of_other_sets_count_too(lab: Lab) -> None:
    cpus = os.cpu_count() or 1
    elsewhere = (
        image("theirs"),
        server("theirs", image="theirs", resources={"cpu": {"reservation": f"{cpus * 700}m"}}),
    )
    lab.apply(*elsewhere, flags=("--set-name", "elsewhere"))
    said = lab.refused(image(), server("ours", resources={"cpu": {"reservation": f"{cpus * 400}m"}}))
    assert "CPU reservations add up to" in said and "Server/theirs" in said
    lab.converge(image(), server("ours", resources={"cpu": {"reservation": f"{cpus * 300}m"}}))


def test_memory_that_is_promised_twice_is_refused(lab: Lab) -> None:
    said = lab.refused(image(), server("a", resources={"memory": {"low": "900Ti"}}))
    assert "memory.min and memory.low add up to 900Ti" in said


@pytest.mark.parametrize("order", [("Quota", "Server"), ("Server", "Quota")])
def test_a_pool_and_a_server_cannot_have_the_same_name(lab: Lab, order: tuple[str, str]) -> None:
    documents = {"Quota": (pool("same"),), "Server": (image(), server("same"))}
    lab.apply(*documents[order[0]])
    said = lab.refused(*documents[order[1]])
    assert "pools and servers share one parent cgroup" in said
