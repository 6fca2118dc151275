"""A server is made as its manifest says: every field of it, seen from the host and from inside."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.features import hierarchies
from tests.lab import Init, Lab, hierarchy, image, quota, server, status, wait_until
from vsprov.model.values.names import CAPABILITIES

NAMESPACES = ("mnt", "pid", "uts", "ipc", "net", "user", "cgroup")
DEFAULT_ELEVEN = (
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT".split()
)
# Says what a newly started program finds around it, then waits.
LOOK_AROUND = """
exec 2>&1
echo "arguments: $1|$2"
echo "user: $(id -u):$(id -g) groups $(id -G)"
echo "directory: $(pwd)"
echo "umask: $(umask)"
env | sort
echo "session: $$ $(sed 's/.*) //' /proc/$$/stat | cut -d ' ' -f 4,6)"
ls -l /proc/self/fd | sed 's/^/fd: /'
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class Full:
    """A server with everything a manifest can say, running."""

    lab: Lab
    folder: Path
    init: Init
    said: str
    documents: tuple[dict[str, object], ...]

    def status(self, field: str) -> str:
        return status(self.init.pid, field)

    def inside(self, path: str) -> Path:
        """A path of the server, as the host reaches it."""
        return Path(f"/proc/{self.init.pid}/root{path}")

    def mount(self, target: str) -> list[str]:
        """Mount options, type and options of the file system that is mounted at `target` in the server."""
        for line in Path(f"/proc/{self.init.pid}/mountinfo").read_text().splitlines():
            head, _, tail = line.partition(" - ")
            if head.split()[4] == target:
                return [*head.split()[5].split(","), tail.split()[0], *tail.split()[2].split(",")]
        return []


@pytest.fixture(scope="module")
def full(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Full]:
    folder = tmp_path_factory.mktemp("files")
    folder.chmod(0o755)
    (folder / "data").mkdir()
    (folder / "data/note").write_text("of the host\n")
    (folder / "single").write_text("one file\n")
    documents = (
        image("host", host={}),
        quota("half", cpu={"limit": "500m"}, memory={"max": "64Mi"}, rlimits={"core": 0}),
        server(
            "full", "/bin/sh", "-c", LOOK_AROUND, "sh", "a b", "$HOME",
            labels={"tier": "web"},
            quota="half",
            resources={
                "cpu": {"weight": 300, "burst": "10ms"},
                "pids": {"max": 50},
                "memory": {"swapMax": 0},
                "rlimits": {"nofile": {"soft": 100, "hard": 200}},
            },
            hostname="full.example.org",
            init={
                "env": {"GREETING": "a = b; $(false)\nand a second line", "PATH": "/usr/bin:/bin"},
                "user": "1234:2345",
                "workingDir": "/srv/data",
            },
            mounts=[
                {"type": "bind", "source": str(folder / "data"), "target": "/srv/data"},
                {"type": "bind", "source": str(folder / "data"), "target": "/srv/sealed", "readOnly": True},
                {"type": "bind", "source": str(folder / "single"), "target": "/srv/one"},
                {"type": "tmpfs", "target": "/scratch", "size": "16Mi", "mode": "0750"},
                {"type": "tmpfs", "target": "/scratch/inner", "size": "1Mi", "readOnly": True},
            ],
            security={"capabilities": {"add": ["NET_RAW"], "drop": ["SYS_CHROOT", "SETFCAP"]}},
        ),
    )  # fmt: skip
    shared_lab.apply(*documents)
    wait_until(lambda: "fd: " in shared_lab.console("full"))
    init = shared_lab.init("full")
    wait_until(lambda: Path(f"/proc/{init.pid}/comm").read_text() == "sleep\n")
    yield Full(shared_lab, folder, init, shared_lab.console("full"), documents)


def test_the_second_plan_is_empty(full: Full) -> None:
    assert full.lab.is_settled(*full.documents)


def test_a_second_apply_changes_nothing_and_says_so(full: Full) -> None:
    done = full.lab.apply(*full.documents)
    assert "Nothing to do" in done.stdout
    assert full.lab.init("full") == full.init


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_the_server_has_each_namespace_of_its_own(full: Full, namespace: str) -> None:
    theirs, ours = (os.readlink(f"/proc/{pid}/ns/{namespace}") for pid in (full.init.pid, "self"))
    assert theirs != ours


def test_the_init_is_pid_1_of_its_namespace(full: Full) -> None:
    assert full.status("NSpid").split() == [str(full.init.pid), "1"]


def test_the_command_gets_its_arguments_as_they_are_written(full: Full) -> None:
    assert "arguments: a b|$HOME\n" in full.said


def test_the_environment_is_the_manifests_and_a_path_and_a_home(full: Full) -> None:
    words = Path(f"/proc/{full.init.pid}/environ").read_bytes().decode().rstrip("\0").split("\0")
    assert sorted(words) == sorted(
        [
            "GREETING=a = b; $(false)\nand a second line",
            "HOME=/",  # user 1234 is not in the image's /etc/passwd
            "PATH=/usr/bin:/bin",
            "PWD=/srv/data",  # the shell's own word
        ]
    )


def test_the_user_is_the_manifests_and_has_no_other_groups(full: Full) -> None:
    assert "user: 1234:2345 groups 2345\n" in full.said


def test_the_working_directory_is_the_manifests(full: Full) -> None:
    assert "directory: /srv/data\n" in full.said
    assert "umask: 0022\n" in full.said


@pytest.mark.bare_debian
def test_the_server_has_a_session_of_its_own_and_no_terminal(full: Full) -> None:
    assert "session: 1 1 -1\n" in full.said


def test_no_open_file_of_the_host_reaches_the_server(full: Full) -> None:
    found = dict(re.findall(r"^fd: .* (\d+) -> (.*)$", full.said, re.MULTILINE))
    console = str(full.lab.directory("full") / "console")
    listed = found.pop("3")  # the folder that ls itself reads
    assert listed.startswith("/proc/")
    assert found == {"0": "/dev/null", "1": found["1"], "2": console}
    assert found["1"].startswith("pipe:")  # to sed
    assert sorted(os.listdir(f"/proc/{full.init.pid}/fd")) == ["0", "1", "2"]


def test_the_host_name_is_the_servers_own(full: Full) -> None:
    name = subprocess.run(
        ["nsenter", "-t", str(full.init.pid), "-u", "hostname"], capture_output=True, text=True, check=True
    )
    assert name.stdout == "full.example.org\n"
    assert os.uname().nodename != "full.example.org"


def test_loopback_is_up_and_the_only_link(full: Full) -> None:
    enter = ["nsenter", "-t", str(full.init.pid), "-n", "cat"]
    links = subprocess.run([*enter, "/proc/net/dev"], capture_output=True, text=True, check=True).stdout
    assert [line.split(":")[0].strip() for line in links.splitlines()[2:]] == ["lo"]
    local = subprocess.run([*enter, "/proc/net/fib_trie"], capture_output=True, text=True, check=True).stdout
    assert "127.0.0.1" in local


def test_the_capabilities_are_the_default_with_add_and_without_drop(full: Full) -> None:
    kept = {*DEFAULT_ELEVEN, "NET_RAW"} - {"SYS_CHROOT", "SETFCAP"}
    assert capabilities(full.status("CapBnd")) == kept
    # a user that is not root holds none of them
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert capabilities(full.status(name)) == set()


def capabilities(mask: str) -> set[str]:
    return {name for number, name in enumerate(CAPABILITIES) if int(mask, 16) >> number & 1}


def test_no_new_privileges_can_be_gained(full: Full) -> None:
    assert full.status("NoNewPrivs") == "1"


def test_limits_of_processes_are_set(full: Full) -> None:
    limits = Path(f"/proc/{full.init.pid}/limits").read_text()
    assert re.search(r"^Max open files +100 +200 ", limits, re.MULTILINE)
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


@pytest.mark.parametrize(
    ("knob", "text"),
    [
        ("cpu.limit", "50000 100000"),
        ("cpu.weight", "300"),
        ("cpu.burst", "10000"),
        ("memory.max", "67108864"),
        ("memory.swapMax", "0"),
        ("pids.max", "50"),
    ],
)
def test_the_kernel_shows_each_limit(full: Full, knob: str, text: str) -> None:
    assert full.lab.limit("full", knob) == text


def test_the_init_is_in_its_group_of_every_hierarchy(full: Full) -> None:
    groups = dict(
        line.split(":", 2)[1:] for line in Path(f"/proc/{full.init.pid}/cgroup").read_text().splitlines()
    )
    home = f"/{full.lab.vsprov.name}/full"
    assert groups[""] == f"{home}/payload"
    for controller in ("cpu", "memory", "pids"):
        if hierarchy(controller) != hierarchy(""):
            assert groups[controller] == home


def test_the_guests_root_owns_its_payload_and_nothing_above_it(full: Full) -> None:
    base = full.lab.directory("full").joinpath("work").stat().st_uid
    payload = full.lab.group("full") / "payload"
    assert payload.stat().st_uid == base
    assert (payload / "cgroup.procs").stat().st_uid == base
    assert (payload / "cgroup.kill").stat().st_uid == 0
    assert full.lab.group("full").stat().st_uid == 0


def test_root_of_the_server_is_an_unprivileged_range_of_the_host(full: Full) -> None:
    inside, outside, count = Path(f"/proc/{full.init.pid}/uid_map").read_text().split()
    assert (inside, count) == ("0", "65536")
    assert int(outside) >= 524288
    assert Path(f"/proc/{full.init.pid}/gid_map").read_text().split() == [inside, outside, count]
    assert full.status("Uid").split()[0] == str(int(outside) + 1234)


def test_the_root_is_an_overlay_without_devices(full: Full) -> None:
    options = full.mount("/")
    assert "overlay" in options and "nodev" in options and "rw" in options


def test_the_hosts_mounts_are_not_in_the_server(full: Full) -> None:
    assert len(Path(f"/proc/{full.init.pid}/mountinfo").read_text().splitlines()) < 40
    assert not full.inside(str(full.lab.vsprov.root)).exists()
    assert not full.inside("/etc/shadow").exists()


def test_a_bind_shows_the_hosts_folder_and_passes_writes_on(full: Full) -> None:
    assert full.inside("/srv/data/note").read_text() == "of the host\n"
    base = full.lab.directory("full").joinpath("work").stat().st_uid
    if "idmapped" in full.mount("/srv/data"):
        # The host's root is the server's root here.
        assert full.inside("/srv/data/note").stat().st_uid == base
    full.lab.shell("full", "true")
    assert "rw" in full.mount("/srv/data")
    assert "nosuid" in full.mount("/srv/data") and "nodev" in full.mount("/srv/data")


def test_a_read_only_bind_refuses_writes(full: Full) -> None:
    assert full.inside("/srv/sealed/note").read_text() == "of the host\n"
    assert "ro" in full.mount("/srv/sealed")
    with pytest.raises(OSError, match="Read-only file system"):
        full.inside("/srv/sealed/new").write_text("")


def test_a_single_file_can_be_bound(full: Full) -> None:
    assert full.inside("/srv/one").read_text() == "one file\n"


def test_a_tmpfs_has_its_size_and_mode(full: Full) -> None:
    options = full.mount("/scratch")
    assert "tmpfs" in options and "size=16384k" in options and "mode=750" in options
    assert full.inside("/scratch").stat().st_mode & 0o7777 == 0o750
    assert "ro" in full.mount("/scratch/inner")


def test_proc_and_sys_are_the_servers_own_and_sys_is_read_only(full: Full) -> None:
    assert "proc" in full.mount("/proc") and "nosuid" in full.mount("/proc")
    assert "sysfs" in full.mount("/sys") and "ro" in full.mount("/sys")
    v1 = len(hierarchies()) > 1
    assert "cgroup2" in full.mount("/sys/fs/cgroup/unified" if v1 else "/sys/fs/cgroup")
    assert not v1 or "ro" in full.mount("/sys/fs/cgroup")
    assert sorted(name for name in os.listdir(full.inside("/proc")) if name.isdigit()) == ["1"]


@pytest.mark.parametrize("path", ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger"])
def test_what_is_the_hosts_in_proc_is_read_only(full: Full, path: str) -> None:
    if not Path(path).exists():
        assert full.mount(path) == []
        return
    assert "ro" in full.mount(path)


def test_the_devices_are_the_six_harmless_ones(full: Full) -> None:
    nodes = {
        path.name: (os.major(path.stat().st_rdev), os.minor(path.stat().st_rdev))
        for path in full.inside("/dev").iterdir()
        if path.is_char_device() and not path.is_symlink()
    }
    assert nodes == {
        "null": (1, 3),
        "zero": (1, 5),
        "full": (1, 7),
        "random": (1, 8),
        "urandom": (1, 9),
        "tty": (5, 0),
    }
    assert not [path for path in full.inside("/dev").iterdir() if path.is_block_device()]
    links = {path.name: os.readlink(path) for path in full.inside("/dev").iterdir() if path.is_symlink()}
    assert links == {
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
        "ptmx": "pts/ptmx",
    }


def test_the_directory_on_disk_is_closed_to_everyone_but_root(full: Full) -> None:
    root = full.lab.vsprov.root
    assert (root.stat().st_uid, root.stat().st_mode & 0o777) == (0, 0o700)
    assert (full.lab.directory("full") / "console.log").stat().st_mode & 0o777 == 0o600


def test_a_command_that_joins_has_the_same_confinement(full: Full) -> None:
    said = full.lab.shell(
        "full", "id -u; pwd; ulimit -n; hostname; cat /proc/self/status; cat /proc/self/cgroup"
    )
    lines = said.splitlines()
    assert lines[:4] == ["1234", "/srv/data", "100", "full.example.org"]
    fields = dict(line.split(":", 1) for line in lines if ":\t" in line)
    for name in ("CapBnd", "CapEff", "CapInh", "NoNewPrivs", "Seccomp"):
        assert fields[name].strip() == full.status(name)


def test_root_holds_the_bounding_set(lab: Lab) -> None:
    lab.converge(image(), server("a"), server("b", security={"capabilities": {"add": ["SYS_PTRACE"]}}))
    found = {name: capabilities(status(lab.init(name).pid, "CapEff")) for name in ("a", "b")}
    assert found == {"a": set(DEFAULT_ELEVEN), "b": {*DEFAULT_ELEVEN, "SYS_PTRACE"}}
    assert status(lab.init("a").pid, "CapEff") == status(lab.init("a").pid, "CapPrm")
