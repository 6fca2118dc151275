"""Commands that copy files of servers, killed after one of their calls of the kernel, and what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.fault.faults import everything_loaded
from tests.lab import Lab
from vsprov.kernel import cgroup, syscall
from vsprov.store.instance import Instance

# What changes something that outlives the process, with the names by which it is called.
CALLS: tuple[tuple[Any, str], ...] = (
    *((os, name) for name in ("mkdir", "rename", "link", "symlink", "mknod", "chown", "setxattr", "utime")),
    *((os, name) for name in ("rmdir", "unlink", "fsync")),
    (syscall, "renameat2"),
    (syscall, "syncfs"),
    (cgroup, "write"),
    (subprocess, "Popen"),
)


def run(lab: Lab, work: Callable[[Instance], object], die_after: int, told: int | None = None) -> int:
    """Do it in a child, which is killed after so many calls of CALLS, 0 for never; how it has ended."""
    everything_loaded()
    sys.stdout.flush()
    sys.stderr.flush()
    left = [die_after]
    pid = os.fork()
    if pid == 0:
        for module, name in CALLS:
            setattr(module, name, counted(getattr(module, name), name, left, told))
        try:
            work(Instance(lab.vsprov.name, str(lab.vsprov.root)))
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def counted(call: Callable[..., Any], name: str, left: list[int], told: int | None) -> Callable[..., Any]:
    """The function, after which this process is killed if it was the last that is `left`."""

    def count(*given: Any, **more: Any) -> Any:
        done = call(*given, **more)
        if told is not None:
            os.write(told, f"{name}\n".encode())
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return count


def calls(lab: Lab, work: Callable[[Instance], object]) -> list[str]:
    read, write = os.pipe()
    with open(read) as lines:
        try:
            assert run(lab, work, 0, write) == 0
        finally:
            os.close(write)
        return lines.read().splitlines()


def thawed(lab: Lab) -> bool:
    return "frozen 0" in (lab.group("web1") / "cgroup.events").read_text()


def leftovers(lab: Lab) -> list[str]:
    top = lab.vsprov.root
    found = (*top.glob("servers/*"), *top.glob("servers/web1/snapshots/*"), *top.glob("volumes/*"))
    return [str(path) for path in found if path.name[0] == "."]


def listed(lab: Lab) -> list[str]:
    items = json.loads(lab.vsprov("snapshot", "ls", "-o", "json").stdout)["items"]
    assert all(each["problem"] is None for each in items)
    return [each["name"] for each in items]


def interrupted(lab: Lab, *words: str) -> tuple[int, bytes]:
    """Interrupt a command as soon as it has frozen web1; its exit code, and what it wrote to stderr."""
    lab.shell("web1", "cd /srv; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo > f$i; done")
    environment = lab.vsprov.environment
    with subprocess.Popen(
        lab.vsprov.command(*words), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as running:
        lab.wait_until(lambda: not thawed(lab) or running.poll() is not None)
        running.send_signal(signal.SIGINT)
        assert running.stderr is not None
        said = running.stderr.read()
    return running.returncode, said
