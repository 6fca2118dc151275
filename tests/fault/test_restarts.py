"""The keeper is killed while servers wait for their restart: the next one goes on."""

from __future__ import annotations

import fcntl
import os
import signal
import time

import pytest

from tests.e2e.restarts import QUICK, keeper_status, state, status
from tests.lab import Lab, image, server, to_yaml, wait_for, wait_until

MARK = "trusted.vsprov.restarts"  # of what the keeper has decided; vsprov/keeper/subjects/restarts.py


def kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    wait_for(pidfd)


def test_the_next_keeper_continues_what_was_due_and_what_was_counted(lab: Lab) -> None:
    """It is started for another server."""
    policy = {**QUICK, "interval": "1h", "attempts": 3}
    lab.apply(image(), server("a", restart=policy))
    before = lab.wait_for_restart("a", lab.end("a"))
    lab.apply(image(), server("a", restart={**policy, "delay": "1h"}))
    lab.end("a")
    wait_until(lambda: state(lab, "a") == "Restarting")
    kill(lab.keeper())
    assert state(lab, "a") == "Restarting" and status(lab, "a")["restart"]["count"] == 2
    mark = os.getxattr(lab.group("a"), MARK).decode().split()
    mark[1] = "1"  # it is due
    os.setxattr(lab.group("a"), MARK, " ".join(mark).encode())
    other = (image("other", host={}), server("b", image="other"))
    lab.apply(*other, flags=("--set-name", "other"))
    assert keeper_status(lab)["restarts"].keys() <= {"a"}
    lab.wait_for_restart("a", before)
    lab.end("a")
    wait_until(lambda: state(lab, "a") == "Restarting")
    assert status(lab, "a")["restart"]["count"] == 3


@pytest.mark.parametrize("policy", ["always", "no"])
def test_one_that_ended_while_there_was_no_keeper_is_restarted_by_its_policy(lab: Lab, policy: str) -> None:
    lab.apply(image(), server("a", restart={**QUICK, "policy": policy}), server("b"))
    before = lab.init("a")
    kill(lab.keeper())
    lab.end("a")
    assert state(lab, "a") == "Exited (unknown)"
    lab.vsprov("restart", "b")
    if policy == "always":
        lab.wait_for_restart("a", before)
    else:
        assert keeper_status(lab)["restarts"] == {}
        assert state(lab, "a") == "Exited (unknown)"


def test_a_keeper_that_dies_while_servers_are_restarted_is_replaced_by_that(lab: Lab) -> None:
    names = ["a", "b", "c"]
    lab.apply(image(), *(server(name, restart={"policy": "always", "delay": "300ms"}) for name in names))
    before = lab.inits(*names)
    keeper = lab.keeper()
    with open(lab.vsprov.run / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # they are not restarted before the keeper is dead
        for name in names:
            lab.end(name)
        wait_until(lambda: keeper_status(lab)["acting"] != 0)
        kill(keeper)
    for name, init in before.items():
        lab.wait_for_restart(name, init)
    assert lab.keeper() != keeper
    wait_until(lambda: sorted(keeper_status(lab)["kept"]) == names)


def test_a_broken_mark_is_ignored(lab: Lab) -> None:
    lab.apply(image(), server("a", restart=QUICK), server("b"))
    before = lab.init("a")
    os.setxattr(lab.group("a"), MARK, b"due x y \xff")
    lab.end("a")
    lab.wait_for_restart("a", before)
    os.setxattr(lab.group("b"), MARK, b"due 1 1 exit 1 1 -")
    lab.end("b")
    wait_until(lambda: state(lab, "b") == "Exited (SIGKILL)")


def test_a_group_that_was_removed_meanwhile_is_forgotten(lab: Lab) -> None:
    lab.apply(image(), server("a", restart={"policy": "always", "delay": "1h"}), server("b"))
    lab.end("a")
    wait_until(lambda: "a" in keeper_status(lab)["restarts"])
    lab.vsprov("destroy", "-y", "-", input=to_yaml(server("a")))
    assert keeper_status(lab)["restarts"] == {}


@pytest.mark.parametrize("policy", ["always", "no"])
def test_a_restart_that_is_interrupted_after_the_stop_is_not_a_stop_on_purpose(lab: Lab, policy: str) -> None:
    documents = (image(), server("a", restart={**QUICK, "policy": policy}), server("b"))
    lab.apply(*documents)
    before = lab.init("a")
    done = lab.vsprov("restart", "a", env={"VSPROV_FAIL_AFTER": "1"}, check=False)
    assert done.returncode == -signal.SIGKILL
    if policy == "always":
        lab.wait_for_restart("a", before)
    else:
        assert state(lab, "a") == "Exited (SIGKILL)"
        lab.apply(*documents)
    assert lab.is_settled(*documents) and lab.init("a") != before


def test_a_stop_that_is_interrupted_once_the_server_has_ended_is_carried_out_by_the_next(lab: Lab) -> None:
    documents = (image(), server("a", restart=QUICK), server("b"))
    lab.apply(*documents)
    assert lab.vsprov("stop", "a", env={"VSPROV_FAIL_AFTER": "1"}, check=False).returncode == -signal.SIGKILL
    wait_until(lambda: state(lab, "a") == "Stopped")  # the stop itself was done
    wait_until(lambda: keeper_status(lab)["restarts"] == {})
    lab.converge(image(), server("a", restart=QUICK, state="Stopped"), server("b"))


def test_a_mark_with_another_time_does_not_keep_a_server_down(lab: Lab) -> None:
    """Such as that of an earlier version, which was in Unix time."""
    policy = {"policy": "always", "delay": "2s", "maxDelay": "2s"}
    lab.apply(image(), server("a", restart=policy), server("b"))
    kill(lab.keeper())
    before = lab.end("a")
    late = time.clock_gettime(time.CLOCK_BOOTTIME) + 1e7
    os.setxattr(lab.group("a"), MARK, f"due {late:.3f} 1 exit {before.pid} {before.start} -".encode())
    lab.vsprov("restart", "b")
    lab.wait_for_restart("a", before)
