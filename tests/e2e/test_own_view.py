"""What a server sees of itself: its memory in /proc, by lxcfs, and the sizes of /dev/shm and /run."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import Lab, image, server, to_yaml

# lxcfs is for all servers of the host, so the host of these tests is a mount namespace of their own.
SCRIPT = """
lxcfs --pidfile={point}.pid {point} >&2 & daemon=$!
trap 'kill -9 $daemon 2>/dev/null || :; umount -l {point}' EXIT
until grep -q {point} /proc/self/mountinfo; do kill -0 $daemon; sleep 0.05; done
{body}
"""


def with_lxcfs(lab: Lab, point: Path, body: str) -> list[str]:
    """What a script says that runs beside a running lxcfs, with the function `vsprov`."""
    point.mkdir()
    words = shlex.join(lab.vsprov.command())
    text = f'vsprov() {{ {words} "$@"; }}\n' + SCRIPT.format(point=point, body=body)
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc", text],
        env=lab.vsprov.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


@pytest.mark.requires("lxcfs", "fuse")
def test_with_lxcfs_a_server_sees_its_own_memory_and_may_choose_not_to(lab: Lab, tmp_path: Path) -> None:
    limit = {"memory": {"max": "64Mi"}}
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        to_yaml(
            image(),
            server("own", resources=limit),
            server("left", resources=limit),
            server("hosts", resources=limit, virtualize={"proc": "off"}),
        )
    )
    body = f"""
    vsprov apply -y {manifest} > /dev/null
    vsprov exec own -- head -1 /proc/meminfo
    vsprov exec hosts -- head -1 /proc/meminfo
    vsprov plan {manifest}
    vsprov doctor | grep ^lxcfs | tr -s ' ' || :
    kill -9 $daemon; wait $daemon || :
    vsprov restart own
    vsprov exec own -- head -1 /proc/meminfo
    vsprov exec left -- cat /proc/meminfo 2>&1 || :
    vsprov exec left -- head -1 /proc/mounts | wc -l
    """
    said = with_lxcfs(lab, tmp_path / "lxcfs", body)
    host = Path("/proc/meminfo").read_text().splitlines()[0]
    assert said == [
        "MemTotal:          65536 kB",
        host,
        "Nothing to do: 3 servers, 1 image match the manifest.",
        f"lxcfs ok {tmp_path}/lxcfs",
        host,
        "cat: /proc/meminfo: Transport endpoint is not connected",
        "1",
    ]


KILLED = """
import os, select, signal, sys
from vsprov.engine.guests import lxcfs
daemon = int(sys.argv[1])
print(bool(lxcfs.files()))
lxcfs.files.cache_clear()
pidfd = os.pidfd_open(daemon)
signal.pidfd_send_signal(pidfd, signal.SIGKILL)
select.select([pidfd], [], [])
print(lxcfs.files())
"""


@pytest.mark.requires("lxcfs", "fuse")
def test_a_killed_lxcfs_has_no_files_though_the_kernel_remembers_them(lab: Lab, tmp_path: Path) -> None:
    said = with_lxcfs(lab, tmp_path / "lxcfs", f"{shlex.join([sys.executable, '-c', KILLED])} $daemon")
    assert said == ["True", "()"]


OF_USER = """
import ctypes, os, sys
from vsprov.engine.guests import lxcfs
device = os.open("/dev/fuse", os.O_RDWR)
for uid in (1000, 0):
    options = f"fd={os.dup(device)},rootmode=40000,user_id={uid},group_id=0".encode()
    assert not ctypes.CDLL(None).mount(b"lxcfs", sys.argv[1].encode(), b"fuse.lxcfs", 0, options)
    device = os.open("/dev/fuse", os.O_RDWR)
    print(lxcfs.mount_point())
"""


@pytest.mark.requires("fuse", "root")
def test_a_file_system_of_an_ordinary_user_is_not_taken_for_lxcfs(tmp_path: Path) -> None:
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", OF_USER, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["", str(tmp_path)], done.stderr


def test_shared_memory_is_half_of_the_servers_own_or_of_the_hosts_unless_its_size_is_set(lab: Lab) -> None:
    limit = {"memory": {"max": "64Mi"}}
    documents = [
        image(),
        server("half", resources=limit),
        server("set", resources=limit, shmSize="5Mi"),
        server("hosts"),
    ]
    lab.converge(*documents)
    sizes = {}
    for name in ("half", "set", "hosts"):
        sizes[name] = int(lab.shell(name, "df -k --output=size /dev/shm | tail -1"))
    memory = int(Path("/proc/meminfo").read_text().split()[1])
    assert (sizes["half"], sizes["set"]) == (32 << 10, 5 << 10)
    assert abs(sizes["hosts"] - memory // 2) <= 4
    documents[2]["spec"]["shmSize"] = "6Mi"
    assert lab.differences(*documents) == {"Server/set /spec/shmSize": (5 << 20, 6 << 20, "restart")}


def test_run_of_a_system_server_is_half_of_its_memory_or_a_fifth_of_the_hosts(lab: Lab) -> None:
    limits = {"half": {"memory": {"max": "128Mi"}}, "small": {"memory": {"max": "48Mi"}}, "hosts": {}}
    init = {"style": "sysv", "command": ["sleep", "1000"]}
    lab.converge(image(), *(server(name, init=init, resources=each) for name, each in limits.items()))
    sizes = {name: int(lab.shell(name, "df -k --output=size /run | tail -1")) for name in limits}
    memory = int(Path("/proc/meminfo").read_text().split()[1])
    assert (sizes["half"], sizes["small"]) == (64 << 10, 32 << 10)  # systemd needs 16 MiB to be free
    assert abs(sizes["hosts"] - memory // 5) <= 4
