"""Servers, commands and build steps are the same, whoever runs vsprov and however."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.features import hierarchies
from tests.instance import CHECKOUT
from tests.lab import Lab, image, members, server, to_yaml, wait_until

# Says all that a process could have from whoever started it.
TELL = """
import ctypes, json, os, platform, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
def text(name):
    try:
        with open(f"/proc/self/{name}") as file:
            return file.read()
    except OSError as error:
        return error.errno
status = dict(line.split(":", 1) for line in text("status").splitlines())
kept = ("SigBlk SigIgn Umask Groups CapInh CapPrm CapBnd CapAmb NoNewPrivs Seccomp Cpus_allowed Mems_allowed "
        "THP_enabled CoreDumping Speculation_Store_Bypass SpeculationIndirectBranch").split()
fields = text("stat").rpartition(")")[2].split()
print(json.dumps({
    **{name: status.get(name) for name in kept},
    **{name: text(name) for name in ("oom_score_adj", "coredump_filter", "loginuid", "personality",
                                     "timerslack_ns", "autogroup")
       if name != "autogroup" or "nice 0" not in str(text(name))},
    "nice, priority, policy": [fields[16], fields[15], fields[38]],
    "ioprio": libc.syscall(252 if platform.machine() == "x86_64" else 31, 1, 0),
    "slack": libc.prctl(30, 0, 0, 0, 0),
    "thp": libc.prctl(42, 0, 0, 0, 0),
    "merge": libc.prctl(68, 0, 0, 0, 0),
    "pdeathsig, securebits": [libc.prctl(27, 0, 0, 0, 0)],
    "affinity": sorted(os.sched_getaffinity(0)),
    "limits": text("limits"),
    "environment": sorted(set(os.environ) - {"SHLVL", "_", "PWD", "OLDPWD", "LC_CTYPE"}),
    "cgroup": [line.split(":")[1:] for line in text("cgroup").splitlines()],
}), flush=True)
"""
COMMAND = ("/usr/bin/env", "python3", "-c", TELL)

# Runs its arguments as a command of somebody who has changed all of that.
WILD = """
import ctypes, os, platform, resource, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"
for group in sys.argv[1].split(":"):
    os.makedirs(group, exist_ok=True)
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write("0")
os.umask(0o077)
os.nice(15)
os.sched_setscheduler(0, os.SCHED_IDLE | os.SCHED_RESET_ON_FORK, os.sched_param(0))
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
assert libc.syscall(251 if x86 else 30, 1, 0, 3 << 13) == 0
for name, text in (("oom_score_adj", "500"), ("coredump_filter", "0")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
for name, soft, hard in (("NOFILE", 300, None), ("CORE", 12345, None), ("STACK", 1 << 20, None),
                         ("FSIZE", 1 << 33, None), ("SIGPENDING", 50, None), ("MEMLOCK", 65536, None)):
    limit = getattr(resource, f"RLIMIT_{name}")
    resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))
for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM, 40])
assert libc.prctl(29, 123456, 0, 0, 0) == 0  # PR_SET_TIMERSLACK
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
libc.prctl(67, 1, 0, 0, 0)  # PR_SET_MEMORY_MERGE
libc.prctl(53, 0, 4, 0, 0)  # PR_SET_SPECULATION_CTRL: PR_SPEC_DISABLE of PR_SPEC_STORE_BYPASS
libc.personality(0x0040000)  # ADDR_NO_RANDOMIZE
os.setgroups([4, 24])
os.environ["PLANTED"] = "1"
os.execvp(sys.argv[2], sys.argv[2:])
"""


def wildly(lab: Lab, groups: list[Path], *arguments: str, stdin: str = "") -> str:
    """What a command line says that is run by a caller of whom everything is changed; it must end well."""
    words = [sys.executable, "-c", WILD, ":".join(map(str, groups)), *lab.vsprov.command(*arguments)]
    done = subprocess.run(
        words, cwd=CHECKOUT, env=lab.vsprov.environment, input=stdin, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(lab: Lab, name: str) -> dict[str, Any]:
    wait_until(lambda: lab.console(name).endswith("\n"))
    found: dict[str, Any] = json.loads(lab.console(name).splitlines()[0])
    return found


@pytest.fixture
def groups(lab: Lab) -> Any:
    """A group for the caller in every v1 hierarchy, also in those that vsprov does not use."""
    made = []
    v1 = {path for name, path in hierarchies().items() if name}
    systemd = Path("/sys/fs/cgroup/systemd")
    if (systemd / "cgroup.procs").exists():
        v1.add(systemd)
    for path in sorted(v1):
        if "cpuset" in path.name:
            continue  # a new one has no CPUs
        made.append(path / f"{lab.vsprov.name}-caller")
    yield made
    for folder in made:
        if folder.exists():
            wait_until(lambda: not members(folder))  # noqa: B023
            folder.rmdir()


def test_servers_and_commands_are_the_same_whoever_starts_them(lab: Lab, groups: list[Path]) -> None:
    linger = f"{TELL}\nimport time; time.sleep(1e6)"
    plain, wild = (server(name, *COMMAND[:3], linger, hostname="same") for name in ("plain", "wild"))
    lab.apply(image(), plain)
    wildly(lab, groups, "apply", "-y", "-", stdin=to_yaml(image(), plain, wild))

    def without_name(name: str) -> dict[str, Any]:
        found = told(lab, name)
        found["cgroup"] = json.loads(json.dumps(found["cgroup"]).replace(f"/{name}", "/NAME"))
        return found

    first = without_name("plain")
    assert without_name("wild") == first
    assert not [path for _, path in first["cgroup"] if "caller" in path]
    assert first["nice, priority, policy"] == ["0", "20", "0"]
    assert (first["oom_score_adj"], first["slack"], first["ioprio"]) == ("0\n", 50_000, 0)
    assert first["environment"] == ["HOME", "PATH"]
    assert "Max core file size        1                    1 " in first["limits"]
    assert "Max open files            1024 " in first["limits"]

    command = json.loads(lab.run("plain", *COMMAND).stdout)
    assert json.loads(wildly(lab, groups, "exec", "plain", "--", *COMMAND)) == command
    different = {key for key in first if first[key] != command[key]}
    assert different <= {"cgroup"}  # its own below the server's


def test_build_steps_are_the_same_whoever_runs_them(lab: Lab, groups: list[Path]) -> None:
    def built(name: str) -> Any:
        command = f"/usr/bin/env python3 - > /told-{name} <<'END'\n{TELL}\nEND"
        return image(name, build={"from": "host", "steps": [{"run": {"command": command}}]})

    documents = [image(), built("plain")]
    lab.apply(*documents)
    documents.append(built("wild"))
    wildly(lab, groups, "apply", "-y", "-", stdin=to_yaml(*documents))
    found = []
    for name in ("plain", "wild"):
        documents.append(server(name, image=name))
    lab.apply(*documents)
    for name in ("plain", "wild"):
        found.append(json.loads(lab.run(name, "cat", f"/told-{name}").stdout))
        found[-1].pop("cgroup")
    assert found[0] == found[1]
    assert "Max core file size        1                    1 " in found[0]["limits"]
