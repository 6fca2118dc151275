"""From the start of a server to its end: what is watched, what a stop waits for, which states are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.verbs import HOST
from tests.features import requires
from tests.lab import Document, Lab, busybox_image, image, server, to_yaml

SETTLE = ("--settle", "250ms")
# Each writes a line when it is asked to stop, after one when it can hear.
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")
SIGWAIT = """
import signal, os
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.write(1, b"ready\\n")
signal.sigwait({signal.SIGTERM})
os.write(1, b"asked\\n")
"""
SIGNALFD = """
import ctypes, os
libc = ctypes.CDLL(None)
mask = (ctypes.c_ulong * 16)(1 << 14)
libc.sigprocmask(0, mask, None)
fd = libc.signalfd(-1, mask, 0)
os.write(1, b"ready\\n")
os.read(fd, 128)
os.write(1, b"asked\\n")
"""


def state(lab: Lab, name: str) -> str:
    found: str = json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]["state"]
    return found


def output(lab: Lab, name: str) -> str:
    """What a server has written until now, when all of it is in its log."""
    return lab.vsprov("logs", name).stdout


def once(name: str, script: str, **spec: Any) -> Document:
    return server(name, "/bin/sh", "-c", script, init={"oneshot": True}, **spec)


def shared(folder: Path) -> list[dict[str, Any]]:
    """The mounts of servers that share this folder of the host."""
    folder.chmod(0o777)
    return [{"type": "bind", "source": str(folder), "target": "/shared"}]


# -- settle


def test_a_command_that_ends_right_after_its_start_fails_the_apply(lab: Lab) -> None:
    bad = server("bad", "/bin/sh", "-c", "sleep 0.02; echo last words; exit 3")
    done = lab.apply(HOST, bad, server("good"), flags=(*SETTLE, "-o", "json"), check=False)
    outcome = json.loads(done.stdout)["outcome"]
    assert done.returncode == 1
    assert outcome["exits"] == {"bad": "exited with code 3"}
    assert outcome["done"] == ["Image/host", "Server/good"]
    assert "Server/bad: started, but its command exited with code 3\n  bad: last words\n" in done.stderr
    assert "1 of 3 failed" in done.stderr
    assert lab.init("good") and state(lab, "bad") == "Exited (3)"
    lab.vsprov("start", "bad", *SETTLE, check=False)
    said = lab.vsprov("restart", "bad", *SETTLE, check=False)
    assert said.returncode == 1 and "exited with code 3" in said.stderr
    assert re.search(r"^bad +Exited \(3\) \d+s ago ", lab.vsprov("get", "servers").stdout, re.M)
    text = lab.vsprov("plan", "-", input=to_yaml(HOST, bad)).stdout
    assert re.search(r"spec.state: Exited \(3\) since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC → Running", text)
    found = lab.differences(HOST, bad)
    assert found == {"Server/bad /spec/state": ("Exited (3)", "Running", "none")}


def test_all_started_servers_are_watched_at_once(lab: Lab, tmp_path: Path) -> None:
    """The first ends when the last has started, which is not after the first has been watched."""
    mounts = shared(tmp_path)
    wait = "while [ ! -e /shared/started ]; do sleep 0.01; done"
    lab.apply(
        HOST,
        once("first", wait, mounts=mounts),
        once("second", wait, mounts=mounts, dependsOn=[{"name": "first"}]),
        once("last", "echo > /shared/started", mounts=mounts, dependsOn=[{"name": "second"}]),
        flags=("--settle", "1h"),
    )
    assert [state(lab, name) for name in ("first", "second", "last")] == ["Exited (0)"] * 3


def test_a_server_is_not_watched_where_that_is_not_wanted(lab: Lab) -> None:
    forever = {"VSPROV_SETTLE": "1h"}
    lab.apply(HOST, server("a"), flags=("--settle", "0"), env=forever)
    refused = lab.apply(HOST, flags=("--settle", "soon"), check=False)
    assert refused.returncode == 64 and "--settle" in refused.stderr


def test_a_command_that_is_meant_to_end_and_does_leaves_nothing_to_do(lab: Lab) -> None:
    job = once("job", "echo done")
    lab.apply(HOST, job, flags=SETTLE)
    assert state(lab, "job") == "Exited (0)"
    assert lab.is_settled(HOST, job)
    assert lab.vsprov("diff", "-", input=json.dumps(job)).stdout == ""
    assert output(lab, "job") == "done\n"
    lab.vsprov("start", "job", *SETTLE)
    assert output(lab, "job") == "done\ndone\n"
    lab.apply(HOST, once("job", "echo else"), flags=SETTLE)  # it runs again for a new command
    assert output(lab, "job") == "done\ndone\nelse\n"
    failing = once("job", "exit 4")
    assert "exited with code 4" in lab.refused(HOST, failing, flags=SETTLE)
    assert lab.differences(HOST, failing) == {"Server/job /spec/state": ("Exited (4)", "Running", "none")}


def test_a_command_that_is_meant_to_end_may_do_so_when_nobody_looks_on(lab: Lab, tmp_path: Path) -> None:
    job = once("job", "while [ ! -e /shared/end ]; do sleep 0.01; done", mounts=shared(tmp_path))
    lab.apply(HOST, job, flags=SETTLE)
    assert state(lab, "job") == "Running"
    (tmp_path / "end").touch()
    lab.wait_until(lambda: state(lab, "job") == "Exited (0)")
    assert lab.is_settled(HOST, job)


def test_a_server_that_is_killed_for_lack_of_memory_is_shown_as_such(lab: Lab) -> None:
    eats = server("a", *PYTHON, "x = b'x' * (64 << 20)", resources={"memory": {"max": "24Mi", "swapMax": 0}})
    said = lab.refused(HOST, eats, flags=("--settle", "30s"))
    assert "lack of memory" in said
    assert state(lab, "a") == "Exited (SIGKILL, out of memory)"
    assert json.loads(lab.vsprov("get", "server", "a", "-o", "json").stdout)["status"]["lastExit"]["oom"]
    assert "out of memory" in lab.vsprov("get", "servers").stdout


# -- stop


@pytest.mark.parametrize("script", [SIGWAIT, SIGNALFD], ids=["sigwait", "signalfd"])
@pytest.mark.vm_subset
def test_an_init_that_waits_for_its_signal_gets_it(lab: Lab, script: str) -> None:
    lab.apply(HOST, server("a", *PYTHON, script, init={"stopTimeout": "60s"}))
    lab.wait_until(lambda: lab.console("a") == "ready\n")
    said = lab.vsprov("stop", "a")
    assert output(lab, "a") == "ready\nasked\n" and "no handler" not in said.stderr


@pytest.mark.parametrize("program", ["catatonit", "tini"])
@pytest.mark.parametrize("by", ["reaper", "command"])
def test_a_program_below_a_reaper_gets_its_signal(lab: Lab, program: str, by: str) -> None:
    requires(program)
    script = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    command = ("/bin/sh", "-c", script)
    if by == "command":
        command = (f"/usr/bin/{program}", "--", *command)
    lab.apply(HOST, server("a", *command, init={"reaper": by == "reaper", "stopTimeout": "60s"}))
    lab.wait_until(lambda: lab.console("a") == "ready\n")
    assert "no handler" not in lab.vsprov("stop", "a").stderr
    assert output(lab, "a") == "ready\nasked\n"


def test_the_init_of_busybox_shuts_down(lab: Lab, tmp_path: Path) -> None:
    """It waits for signals in sigtimedwait(2), and ends by reboot(2), which needs a capability."""
    root = busybox_image(tmp_path / "root")
    (root / "etc/inittab").write_text("::sysinit:/bin/echo ready\n::shutdown:/bin/echo asked\n")
    capabilities = {"capabilities": {"add": ["SYS_BOOT"]}}
    init = {"command": ["/bin/init"], "stopTimeout": "60s"}
    box = server("a", image="box", init=init, security=capabilities)
    lab.apply(image("box", directory=str(root)), box)
    lab.wait_until(lambda: "ready" in output(lab, "a"))
    assert "no handler" not in lab.vsprov("stop", "a").stderr
    assert "asked" in output(lab, "a")


def test_an_init_that_does_not_handle_its_stop_signal_is_named(lab: Lab) -> None:
    lab.apply(HOST, server("a", init={"stopTimeout": "1h"}), server("b", init={"stopTimeout": "1h"}))
    said = lab.vsprov("stop", "a").stderr
    assert "Server/a: killed at once: the command, as pid 1, has no handler for SIGTERM" in said
    assert "init.reaper" in said
    done = lab.apply(server("b", state="Stopped"), flags=("-o", "json"))
    assert json.loads(done.stdout)["outcome"]["unhandledSignals"] == {"b": "TERM"}
    lab.vsprov("start", "a")
    assert "no handler for SIGTERM" in lab.vsprov("destroy", "--all", "-y").stderr


# -- frozen


def frozen(lab: Lab, name: str, group: str = "") -> Path:
    file = lab.group(name) / group / "cgroup.freeze"
    file.write_text("1")
    events = lab.group(name) / group / "cgroup.events"
    lab.wait_until(lambda: "frozen 1" in events.read_text())
    return file


@pytest.mark.vm_subset
@pytest.mark.parametrize("group", ["", "payload"])
def test_a_frozen_server_is_shown_and_thawed(lab: Lab, group: str) -> None:
    lab.apply(HOST, server("a"))
    first, file = lab.init("a"), frozen(lab, "a", group)
    assert state(lab, "a") == "Frozen" and "Frozen" in lab.vsprov("get", "servers").stdout
    assert lab.differences(HOST, server("a")) == {"Server/a /spec/state": ("Frozen", "Running", "live")}
    refused = lab.vsprov("exec", "a", "--", "true", check=False)
    assert refused.returncode != 0 and "is frozen" in refused.stderr
    lab.converge(HOST, server("a"))
    assert file.read_text() == "0\n"
    frozen(lab, "a", group)
    assert "Server/a: started" in lab.vsprov("start", "a").stderr
    assert (file.read_text(), lab.init("a")) == ("0\n", first)


def test_a_frozen_server_is_thawed_to_hear_that_it_should_stop(lab: Lab) -> None:
    script = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    a = server("a", "/bin/sh", "-c", script, init={"stopTimeout": "60s"})
    lab.apply(HOST, a)
    lab.wait_until(lambda: lab.console("a") == "ready\n")
    frozen(lab, "a")
    lab.vsprov("stop", "a")
    assert output(lab, "a") == "ready\nasked\n"
    (lab.group("a") / "cgroup.freeze").write_text("1")  # frozen while nothing runs in it
    lab.vsprov("start", "a")
    lab.wait_until(lambda: lab.console("a").endswith("asked\nready\n"))
    assert lab.is_settled(HOST, a)


def test_the_servers_of_a_frozen_pool_are_frozen(lab: Lab) -> None:
    team = {
        "apiVersion": "vsprov/v1",
        "kind": "Quota",
        "metadata": {"name": "team"},
        "spec": {"scope": "pool"},
    }
    documents = (HOST, team, server("a", quota="team"), server("b", quota="team"))
    lab.apply(*documents)
    frozen(lab, "team")
    assert sorted(lab.differences(*documents)) == ["Server/a /spec/state", "Server/b /spec/state"]
    lab.converge(*documents)
    lab.vsprov("stop", "a")
    frozen(lab, "team")
    lab.vsprov("destroy", "--all", "-y")
