"""Servers that try to hold up, fool or break out through the probes that the host makes in them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.features import requires
from tests.lab import Lab, busybox_image, image, members, server, status, wait_for, wait_until
from tests.silent_fuse import silent_fuse
from vsprov.engine.run import keeper
from vsprov.kernel import live_mount
from vsprov.store.instance import Instance

FAST = {"interval": "100ms", "timeout": "300ms", "retries": 2}
MOST_MEMORY = 20 << 10  # KiB


def keeper_of(lab: Lab) -> keeper.Keeper:
    """A connection to the keeper, which must run."""
    found = keeper.connect(Instance(lab.vsprov.name, str(lab.vsprov.root)))
    assert found
    return found


def message(lab: Lab, name: str) -> Any:
    document = json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)
    return document["status"]["conditions"][0]["message"]


def state(lab: Lab, name: str) -> Any:
    return json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]["state"]


def test_a_file_system_that_does_not_answer_holds_up_only_its_own_server(lab: Lab, tmp_path: Path) -> None:
    with silent_fuse(tmp_path / "remote") as remote:
        lab.apply(
            image(),
            server("a", readiness={"file": "/tmp/x", **FAST}),
            server("b", readiness={"file": "/tmp/go", **FAST}),
        )
        live_mount.mount_file(lab.init("a").pid, str(remote.point), "/tmp", 0)
        wait_until(remote.asked.is_set)
        wait_until(lambda: message(lab, "a") == "the previous probe has not ended")
        (lab.root("b") / "tmp/go").touch()
        wait_until(lambda: state(lab, "b") == "Ready")
        (lab.root("b") / "tmp/go").unlink()
        wait_until(lambda: state(lab, "b") == "NotReady")
        assert state(lab, "a") == "Starting"
    lab.vsprov("stop", "--all")


def test_a_probe_that_cannot_be_killed_does_not_prevent_another_keeper(lab: Lab, tmp_path: Path) -> None:
    with silent_fuse(tmp_path / "remote") as remote:
        lab.apply(image(), server("a", readiness={"file": "/tmp/x", **FAST}), server("b"))
        live_mount.mount_file(lab.init("a").pid, str(remote.point), "/tmp", 0)
        wait_until(remote.asked.is_set)
        wait_until(lambda: message(lab, "a") == "the previous probe has not ended")
        pidfd = os.pidfd_open(lab.keeper())
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        wait_for(pidfd)
        lab.vsprov("restart", "b")
        connection = keeper_of(lab)
        assert sorted(connection.settle()["kept"]) == ["a", "b"]
        connection.close()
    lab.vsprov("stop", "--all")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("trap '' TERM HUP INT; sleep 1000", "the command did not end within 0.3 s"),
        ("yes; exit 1", "the command did not end within 0.3 s"),
        ("kill -STOP $$; exit 1", "the command did not end within 0.3 s"),
        ("kill -KILL $$", "killed by signal 9"),
        ("seq 1000000; exit 7", "exit code 7: 1000000"),
        ("sleep 1000 & exit 3", "exit code 3"),
        ("printf '\\033[31m\"\\\\'; exit 1", "exit code 1: ?[31m??"),
    ],
)
def test_a_command_cannot_hold_up_the_prober_nor_fool_it(lab: Lab, script: str, said: str) -> None:
    probe = {"exec": ["sh", "-c", script], **FAST, "timeout": "300ms" if "0.3 s" in said else "10s"}
    lab.apply(image(), server("a", readiness=probe), server("b", readiness={"file": "/tmp/go", **FAST}))
    wait_until(lambda: message(lab, "a") == said)
    (lab.root("b") / "tmp/go").touch()
    wait_until(lambda: state(lab, "b") == "Ready")
    prober = lab.prober()
    assert prober and int(status(prober, "VmRSS").split()[0]) < MOST_MEMORY


def test_a_service_that_accepts_and_says_nothing_is_given_up_after_the_timeout(lab: Lab) -> None:
    script = (
        "import socket\ns = socket.create_server(('127.0.0.1', 80))\nheld = []\n"
        "while True:\n held.append(s.accept())\n held[-1][0].send(b'x' * 500)\n"
    )
    probe = {"http": {"port": 80}, **FAST}
    lab.apply(image(), server("a", "/usr/bin/python3", "-c", script, readiness=probe))
    wait_until(lambda: message(lab, "a") == "no answer within 0.3 s")


def test_a_service_that_does_not_speak_http_is_not_ready(lab: Lab) -> None:
    script = (
        "import socket\ns = socket.create_server(('127.0.0.1', 80))\n"
        "while True:\n c, _ = s.accept()\n c.sendall(b'SSH-2.0-x\\r\\n' + b'y' * 5000)\n c.close()\n"
    )
    lab.apply(
        image(), server("a", "/usr/bin/python3", "-c", script, readiness={"http": {"port": 80}, **FAST})
    )
    wait_until(lambda: message(lab, "a") == "the answer is not HTTP")


def test_a_link_to_a_file_of_the_host_is_followed_in_the_server_only(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    script = (
        f"ln -s {tmp_path}/there /tmp/a; ln -s ../../../../../../../../..{tmp_path}/there /tmp/b; sleep 1000"
    )
    lab.apply(
        image(),
        server("a", "sh", "-c", script, readiness={"file": "/tmp/a", **FAST}),
        server("b", "sh", "-c", script, readiness={"file": "/tmp/b", **FAST}),
    )
    for name in ("a", "b"):
        wait_until(lambda name=name: (lab.root(name) / "tmp/b").is_symlink())  # type: ignore[misc]
        assert state(lab, name) == "Starting"
        (lab.root(name) / str(tmp_path).lstrip("/")).mkdir(parents=True)
        (lab.root(name) / f"{str(tmp_path).lstrip('/')}/there").touch()
        wait_until(lambda name=name: state(lab, name) == "Ready")  # type: ignore[misc]


def test_a_command_cannot_reach_the_program_that_runs_it(lab: Lab, tmp_path: Path) -> None:
    """CVE-2019-5736: "#!/proc/self/exe" makes the prober's interpreter execute itself inside."""
    requires("busybox")
    before = os.stat(os.path.realpath("/proc/self/exe"))
    script = (
        "printf '#!/proc/self/exe\\n' > /x; chmod +x /x; "
        "while true; do for p in /proc/[0-9]*; do "
        'exe=$(readlink $p/exe); case $exe in *python*) echo "$exe" >> /seen; '
        "echo x >> $p/exe && echo written >> /seen;; esac; done 2>>/errors; done"
    )
    lab.apply(
        image(directory=str(busybox_image(tmp_path / "image"))),
        server("a", "sh", "-c", script, readiness={"exec": ["/x"], **FAST}),
    )
    wait_until(lambda: bool(message(lab, "a")))
    after = os.stat(os.path.realpath("/proc/self/exe"))
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    seen = lab.root("a") / "seen"
    assert "written" not in (seen.read_text() if seen.exists() else "")


def test_a_socket_that_lingers_in_a_report_holds_up_nobody(lab: Lab) -> None:
    """Whoever closes it last waits until its other end has read everything (socket(7), SO_LINGER): also who
    does not receive it, but discards the report.
    """
    script = (
        "import os, socket, struct, time\n"
        "there = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "there.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
        "listener = socket.create_server(('127.0.0.1', 0))\nheld = []\n"
        "while not os.path.exists('/tmp/go'): time.sleep(0.01)\n"
        "for _ in range(3):\n"
        " one = socket.create_connection(listener.getsockname())\n"
        " held.append(listener.accept())\n"
        " one.setblocking(False)\n"
        " try:\n"
        "  while True: one.send(b'x' * 65536)\n"
        " except BlockingIOError: pass\n"
        " one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 3600))\n"
        " socket.send_fds(there, [b'STATUS=x'], [one.fileno()])\n"
        " one.close()\n"
        "open('/tmp/sent', 'w')\ntime.sleep(1000)\n"
    )
    lab.apply(
        image(),
        server("a", "/usr/bin/python3", "-c", script, readiness={"notify": True}),
        server("b", readiness={"file": "/tmp/go", **FAST}),
    )
    before = lab.keeper()
    readers = [*members(lab.group(".keeper")), *members(lab.group(".keeper/act"))]
    for pid in readers:  # or the server itself would wait
        os.kill(pid, signal.SIGSTOP)
    (lab.root("a") / "tmp/go").touch()
    wait_until((lab.root("a") / "tmp/sent").exists)
    for pid in readers:
        os.kill(pid, signal.SIGCONT)
    (lab.root("b") / "tmp/go").touch()
    wait_until(lambda: state(lab, "b") == "Ready")
    lab.vsprov("stop", "a")
    (lab.root("b") / "tmp/go").unlink()
    wait_until(lambda: state(lab, "b") == "NotReady")
    assert lab.keeper() == before


def test_a_server_that_reports_without_end_holds_up_nobody(lab: Lab) -> None:
    script = (
        "import os, socket\nthere = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "there.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
        "null = os.open('/dev/null', os.O_RDONLY)\n"
        "while not os.path.exists('/tmp/go'):\n socket.send_fds(there, [b'S' * 5000], [null] * 50)\n"
        "there.send(b'READY=1')\nimport time\ntime.sleep(1000)\n"
    )
    lab.apply(
        image(),
        server("a", "/usr/bin/python3", "-c", script, readiness={"notify": True}),
        server("b", readiness={"file": "/tmp", **FAST}),
    )
    wait_until(lambda: state(lab, "b") == "Ready")
    used = len(os.listdir(f"/proc/{lab.keeper()}/fd"))
    assert used < 40 and state(lab, "a") == "Starting"
    (lab.root("a") / "tmp/go").touch()
    wait_until(lambda: state(lab, "a") == "Ready")
