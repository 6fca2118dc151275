"""Servers that are unhealthy are restarted, as their key `restart` wants."""

from __future__ import annotations

import os

from tests.e2e.restarts import QUICK, inert, keeper_status, state
from tests.lab import Document, Lab, image, server, wait_until

HEALTH = {"file": "/tmp/well", "interval": "100ms", "retries": 2, "timeout": "5s"}
RUNS = "touch /tmp/well; exec sleep 1000"


def test_an_unhealthy_server_is_restarted_by_its_policy(lab: Lab) -> None:
    names = ("a", "b")
    lab.apply(
        image(),
        server("a", "sh", "-c", RUNS, health=HEALTH, restart=QUICK),
        server("b", "sh", "-c", RUNS, health=HEALTH),
    )
    before = lab.inits(*names)
    for name in names:
        well = lab.root(name) / "tmp/well"
        wait_until(well.exists)
        well.unlink()
    lab.wait_for_restart("a", before["a"])
    wait_until(lambda: state(lab, "b") == "Unhealthy")
    assert lab.init("b") == before["b"] and inert(lab, "b")
    wait_until(lambda: state(lab, "a") == "Running")


def test_an_unhealthy_server_that_recovers_before_its_restart_is_left_alone(lab: Lab) -> None:
    policy = {"policy": "on-failure", "delay": "1h"}
    lab.apply(image(), server("a", "sh", "-c", RUNS, health=HEALTH, restart=policy))
    before, well = lab.init("a"), lab.root("a") / "tmp/well"
    wait_until(well.exists)
    well.unlink()
    wait_until(lambda: "a" in keeper_status(lab)["restarts"])
    well.touch()
    wait_until(lambda: keeper_status(lab)["restarts"] == {})
    assert lab.init("a") == before and state(lab, "a") == "Running"


def unhealthy(lab: Lab, name: str) -> None:
    """Make a server unhealthy, and wait until it is to be restarted."""
    well = lab.root(name) / "tmp/well"
    wait_until(well.exists)
    well.unlink()
    wait_until(lambda: name in keeper_status(lab)["restarts"])


def counted(lab: Lab, name: str) -> int:
    """How many restarts count, with the one that is due; vsprov/keeper/subjects/restarts.py."""
    times = os.getxattr(lab.group(name), "trusted.vsprov.restarts").split()[-1]
    return 0 if times == b"-" else times.count(b",") + 1


def test_a_policy_that_becomes_no_takes_back_the_restart_of_an_unhealthy_server(lab: Lab) -> None:
    policy = {"policy": "always", "delay": "1h"}
    lab.apply(image(), server("a", "sh", "-c", RUNS, health=HEALTH, restart=policy), server("b"))
    before = lab.init("a")
    unhealthy(lab, "a")
    lab.converge(image(), server("a", "sh", "-c", RUNS, health=HEALTH), server("b"))
    assert inert(lab, "a") and lab.init("a") == before
    lab.converge(image(), server("a", "sh", "-c", RUNS, health=HEALTH, restart=policy), server("b"))
    wait_until(lambda: "a" in keeper_status(lab)["restarts"])  # it is unhealthy all the time
    assert counted(lab, "a") == 1


def test_one_that_recovers_does_not_wipe_out_earlier_restarts(lab: Lab) -> None:
    """Otherwise a server could end again and again without ever being given up."""

    def document(delay: str) -> Document:
        policy = {"policy": "always", "delay": delay, "interval": "1h", "attempts": 3}
        return server("a", "sh", "-c", RUNS, health=HEALTH, restart=policy)

    lab.apply(image(), document("10ms"))
    before = lab.init("a")
    lab.end("a")
    before = lab.wait_for_restart("a", before)
    lab.converge(image(), document("1h"))
    unhealthy(lab, "a")
    assert counted(lab, "a") == 2
    (lab.root("a") / "tmp/well").touch()
    wait_until(lambda: inert(lab, "a"))
    assert counted(lab, "a") == 1
    lab.end("a")
    wait_until(lambda: "a" in keeper_status(lab)["restarts"])
    assert counted(lab, "a") == 2
