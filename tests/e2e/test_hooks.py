"""Hooks: commands of the host around the start and the stop of a server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.applying import applying
from tests.e2e.verbs import HOST
from tests.features import requires
from tests.lab import Document, Lab, members, server, status, to_yaml, wait_for, wait_until
from tests.silent_fuse import silent_fuse

HOOKS = ("preStart", "postStart", "preStop", "postStop")


def hook(script: str, **more: Any) -> dict[str, Any]:
    return {"exec": ["sh", "-euc", script], **more}


def noting(log: Path) -> dict[str, list[Any]]:
    """Hooks that each add a line to a file: its name, and whether there is a process of the server."""
    line = f'echo "$VSPROV_HOOK ${{VSPROV_PID:+running}}" >> {log}'
    return {name: [hook(line)] for name in HOOKS}


def hooked(hooks: Any, *command: str, name: str = "web1", **spec: Any) -> Document:
    return server(name, *command, hooks=hooks, **spec)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for nothing but its parent, the host's init."""
    return status(pid, "State")[:1] in ("", "Z", "X")


def groups_of_hooks(lab: Lab) -> list[str]:
    top = lab.group("")
    return (
        sorted(path.name for path in top.iterdir() if path.name.startswith(".hook")) if top.exists() else []
    )


@pytest.mark.vm_subset
def test_hooks_run_around_each_start_and_stop_in_their_order(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"
    documents = HOST, hooked(noting(log))
    lab.converge(*documents)
    started = ["preStart ", "postStart running"]
    assert log.read_text().splitlines() == started
    lab.vsprov("restart", "web1")
    stopped = ["preStop running", "postStop "]
    assert log.read_text().splitlines() == [*started, *stopped, *started]
    lab.vsprov("stop", "web1")
    lab.vsprov("destroy", "-y", "-", input=to_yaml(*documents))
    assert log.read_text().splitlines() == [*started, *stopped, *started, *stopped]
    assert lab.vsprov.left() == []


def test_a_hook_whose_output_never_pauses_is_killed_after_its_timeout(lab: Lab) -> None:
    script = "for i in 1 2 3 4 5 6; do dd if=/dev/zero bs=64k status=none & done; wait"
    done = lab.apply(HOST, hooked({"preStart": [hook(script, timeout="1s")]}), check=False)
    assert "preStart hook sh: killed, because it had not ended after 1s" in done.stderr
    assert groups_of_hooks(lab) == [] and lab.processes("web1") == []


def test_a_hook_is_told_about_its_server_and_can_look_at_it(lab: Lab, tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = f'echo "$VSPROV_INSTANCE $VSPROV_ROOT $VSPROV_SERVER $VSPROV_PID $COLOR $(pwd)" > {said}'
    lab.apply(HOST, hooked({"postStart": [hook(script, env={"COLOR": "red"})]}))
    pid = lab.init("web1").pid
    assert said.read_text() == f"{lab.vsprov.name} {lab.vsprov.root} web1 {pid} red /\n"


def test_post_stop_is_told_how_the_server_ended(lab: Lab, tmp_path: Path) -> None:
    said = tmp_path / "said"
    hooks = {"postStop": [hook(f'echo "$VSPROV_EXIT_CODE" > {said}')]}
    lab.apply(HOST, hooked(hooks, "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"))
    lab.wait_until(lambda: lab.console("web1") == "ready\n")
    lab.vsprov("stop", "web1")
    assert said.read_text() == "3\n"


def test_if_pre_start_fails_the_server_does_not_start_and_post_stop_cleans_up(
    lab: Lab, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    hooks = {
        "preStart": [hook(f"echo first >> {done}"), hook("echo no disk >&2; exit 4"), hook(f"touch {done}2")],
        "postStop": [hook(f"echo cleaned >> {done}")],
    }
    said = lab.refused(HOST, hooked(hooks), server("other"))
    assert "Server/web1: preStart hook sh: exit code 4" in said
    assert "Server/web1: preStart: no disk" in said
    assert lab.processes("web1") == []
    assert done.read_text() == "first\ncleaned\n" and not Path(f"{done}2").exists()
    assert lab.init("other")
    fixed = hooked({"postStop": hooks["postStop"]})
    lab.converge(HOST, fixed, server("other"))
    assert done.read_text() == "first\ncleaned\n"


def test_if_post_start_fails_the_server_is_stopped_again(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"
    hooks = noting(log) | {"postStart": [hook("exit 1")]}
    said = lab.refused(HOST, hooked(hooks))
    assert "Server/web1: postStart hook sh: exit code 1" in said
    assert lab.processes("web1") == []
    assert log.read_text().splitlines() == ["preStart ", "postStop "]


def test_if_post_start_fails_in_a_restart_the_server_runs_again_as_before(lab: Lab, tmp_path: Path) -> None:
    documents = HOST, hooked({}, "sh", "-c", "exec sleep infinity")
    lab.converge(*documents)
    first = lab.init("web1")
    said = lab.refused(HOST, hooked({"postStart": [hook("exit 1")]}, "sleep", "1h"))
    assert "the server was started again as it was before" in said
    assert lab.init("web1") != first
    assert lab.is_settled(*documents)


def test_a_server_that_was_stopped_because_post_start_failed_says_so(lab: Lab, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    lab.converge(HOST, hooked({"postStart": [hook(f"test ! -e {bad}")]}, "sleep", "1h"))
    bad.touch()
    assert lab.vsprov("restart", "web1", check=False).returncode == 1
    seen = json.loads(lab.vsprov("get", "server", "web1", "-o", "json").stdout)["status"]
    assert seen["state"] == "Exited (postStart hook failed)"
    assert (seen["lastExit"]["reason"], seen["lastExit"]["stoppedBy"]) == ("postStart hook failed", "restart")
    said = lab.vsprov("describe", "server", "web1").stdout
    assert "stopped by vsprov restart, because its postStart hook failed, at " in said


def test_if_hooks_of_a_stop_fail_that_is_said_and_the_server_stops(lab: Lab) -> None:
    lab.apply(HOST, hooked({"preStop": [hook("exit 1")], "postStop": [hook("kill -9 $$")]}))
    said = lab.vsprov("stop", "web1").stderr
    assert "Server/web1: preStop hook sh: exit code 1" in said
    assert "Server/web1: postStop hook sh: killed by signal 9" in said
    assert lab.processes("web1") == []


def test_a_program_that_is_missing_is_an_error_that_names_it(lab: Lab) -> None:
    said = lab.refused(HOST, hooked({"preStart": [{"exec": ["no-such-program"]}]}))
    assert "preStart hook no-such-program: exit code 127" in said
    assert re.search(r"^Server/web1: preStart: hook: .*no-such-program: not found$", said, re.MULTILINE)


def test_a_hook_that_takes_too_long_is_killed_with_all_it_has_started(lab: Lab, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"setsid sleep 1h & echo $! > {pids}; sleep 1h"
    said = lab.refused(HOST, hooked({"preStart": [hook(script, timeout="200ms")]}))
    assert "killed, because it had not ended after 200ms" in said
    assert has_ended(int(pids.read_text()))
    assert groups_of_hooks(lab) == []


def test_what_a_hook_leaves_in_the_background_is_killed_when_it_ends(lab: Lab, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    lab.converge(HOST, hooked({"preStart": [hook(f"sleep 1h & echo $! > {pids}")]}))
    assert has_ended(int(pids.read_text()))
    assert groups_of_hooks(lab) == []


def test_the_last_lines_of_a_lot_of_output_are_shown(lab: Lab) -> None:
    noisy = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo line $i; done"
    said = lab.apply(HOST, hooked({"preStart": [hook(noisy)]})).stderr
    lines = [line for line in said.splitlines() if ": preStart: line" in line]
    assert lines[-1] == "Server/web1: preStart: line 30000" and len(lines) <= 20


def test_changed_hooks_cost_nothing_and_take_effect_at_once(lab: Lab, tmp_path: Path) -> None:
    done = tmp_path / "done"
    lab.converge(HOST, hooked({}))
    first = lab.init("web1")
    documents = HOST, hooked({"postStop": [hook(f"touch {done}")]})
    costs = {cost for _, _, cost in lab.differences(*documents).values()}
    assert costs == {"live"}
    lab.converge(*documents)
    assert lab.init("web1") == first and not done.exists()
    lab.vsprov("stop", "web1")
    assert done.exists()


def kill_init(lab: Lab) -> None:
    pidfd = os.pidfd_open(lab.init("web1").pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    wait_for(pidfd)


STARTED = ["preStart ", "postStart running"]


def test_post_stop_of_a_server_that_ends_by_itself_runs_without_any_command(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"
    documents = HOST, hooked(noting(log))
    lab.converge(*documents)
    kill_init(lab)
    wait_until(lambda: log.read_text().splitlines() == [*STARTED, "postStop "])
    assert "web1" in lab.vsprov("stop", "web1").stderr
    assert log.read_text().splitlines() == [*STARTED, "postStop "]
    lab.converge(*documents)
    assert log.read_text().splitlines() == [*STARTED, "postStop ", *STARTED]


def test_post_stop_does_not_wait_for_the_delay_of_a_restart(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"
    lab.converge(HOST, hooked(noting(log), restart={"policy": "always", "delay": "1h", "maxDelay": "1h"}))
    kill_init(lab)
    wait_until(lambda: log.read_text().splitlines() == [*STARTED, "postStop "])
    found = json.loads(lab.vsprov("get", "server", "web1", "-o", "json").stdout)
    assert found["status"]["state"].startswith("Restarting")


def test_a_restart_by_policy_runs_all_hooks_around_it(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"
    lab.converge(HOST, hooked(noting(log), restart={"policy": "always", "delay": "10ms"}))
    kill_init(lab)
    wait_until(lambda: log.read_text().splitlines() == [*STARTED, "postStop ", *STARTED])


def test_if_nobody_has_run_post_stop_of_a_server_that_has_ended_its_start_does(
    lab: Lab, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    documents = HOST, hooked(noting(log))
    lab.converge(*documents)
    os.kill(lab.keeper(), signal.SIGKILL)
    kill_init(lab)
    lab.converge(*documents)
    assert log.read_text().splitlines() == [*STARTED, "postStop ", *STARTED]


def test_a_hook_that_the_kernel_does_not_let_end_holds_up_only_its_server(lab: Lab, tmp_path: Path) -> None:
    requires("fuse")
    with silent_fuse(tmp_path / "remote") as silent:
        stuck = hooked({"preStart": [hook(f"exec stat {silent.point}/file", timeout="200ms")]})
        said = lab.refused(HOST, stuck, server("other"))
        assert silent.asked.is_set()
        assert "is still there: blocked in the kernel (state D)" in said
        assert lab.init("other")
        done = lab.vsprov("restart", "other")
        assert f"{lab.vsprov.name}/.hook-web1, left by an interrupted hook: kill: " in done.stderr
        assert "not run, because an earlier one cannot be killed" in lab.refused(HOST, stuck, server("other"))
    wait_until(lambda: not members(lab.group(".hook-web1")))
    lab.converge(HOST, server("other"))
    assert groups_of_hooks(lab) == []


@pytest.mark.parametrize("name", ["preStart", "postStart"])
def test_a_command_killed_in_the_middle_of_a_hook_leaves_nothing_after_the_next(
    lab: Lab, tmp_path: Path, name: str
) -> None:
    log = tmp_path / "log"
    hooks = noting(log)
    slow = hook(f'echo "{name} begins" >> {log}; [ -e {log}.fast ] || sleep 1h')
    documents = HOST, hooked(hooks | {name: [slow]})
    file = tmp_path / "manifest.yaml"
    file.write_text(to_yaml(*documents))
    applying = subprocess.Popen(
        lab.vsprov.command("apply", "-y", file),
        env=lab.vsprov.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: log.exists() and f"{name} begins" in log.read_text())
    applying.kill()
    applying.wait()
    (group,) = groups_of_hooks(lab)
    assert members(lab.group("") / group)
    Path(f"{log}.fast").touch()
    lab.apply(*documents)
    assert groups_of_hooks(lab) == []
    assert lab.is_settled(*documents)
    if name == "preStart":
        expected = ["preStart begins", "postStop ", "preStart begins", "postStart running"]
        assert log.read_text().splitlines() == expected


@pytest.mark.parametrize(("name", "state"), [("preStart", "Exited (SIGKILL)"), ("postStart", "Running")])
def test_an_interrupted_restart_says_in_which_state_the_server_is(
    lab: Lab, tmp_path: Path, name: str, state: str
) -> None:
    fast, begun = tmp_path / "fast", tmp_path / "begun"
    fast.touch()
    slow = hook(f"[ -e {fast} ] || {{ touch {begun}; sleep 1h; }}")
    documents = HOST, hooked({name: [slow]}), server("other")
    lab.apply(*documents)
    fast.unlink()
    with applying(lab, verb=("restart", "web1")) as it:
        wait_until(begun.exists)
        it.process.send_signal(signal.SIGINT)
        code, said = it.ended()
    assert (code, said.splitlines()) == (
        130,
        [
            "vsprov: interrupted",
            f"Server/web1: interrupted; its state is {state}",
            "  hint: vsprov restart web1",
        ],
    )
    assert bool(lab.running("web1")) == (state == "Running")
    fast.touch()
    lab.vsprov("restart", "web1")
    assert lab.is_settled(*documents)


def test_a_plan_has_the_hooks_among_its_steps_and_runs_none(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"
    plan = lab.plan(HOST, hooked(noting(log)))
    (change,) = [each for each in plan["resource_changes"] if each["address"] == "Server/web1"]
    assert [step["hook"] for step in change["steps"] if step["step"] == "RunHooks"] == [
        "preStart",
        "postStart",
    ]
    assert not log.exists()
