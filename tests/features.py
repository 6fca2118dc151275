"""What this machine can do, asked of the kernel itself, and `requires`, the only way a test may be skipped.

Either a feature is there; or the machine lacks it (a kernel without ipvlan): the test is skipped, with the
reason; or it could be there and is not (root, a program that a package brings): then the test is skipped
too, but with VSPROV_REQUIRE=1 it fails, so that an automatic run cannot pass by testing nothing.

The probes leave nothing behind: they work in private namespaces, which die with the probing process.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

EXPLAINED = "this machine has no "  # how the reason of every skip begins that `requires` decided
SERVERS = Path("/var/tmp")  # below it, each test keeps the state of its own instance

CLONE_NEWUSER = 0x10000000
SYS_OPEN_TREE = 428
SYS_MOUNT_SETATTR = 442
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOUNT_ATTR_IDMAP = 0x00100000

# Feature: (program, Debian packages). What stands here can be had: when required, its absence is a failure.
PROGRAMS = {
    "acl": ("setfacl", "acl"),
    "as": ("x86_64-linux-gnu-as", "binutils-x86-64-linux-gnu"),
    "bsdtar": ("bsdtar", "libarchive-tools"),
    "busybox": ("busybox", "busybox-static"),
    "catatonit": ("catatonit", "catatonit"),
    "debootstrap": ("debootstrap", "debootstrap"),
    "docker_registry": ("docker-registry", "docker-registry"),
    "gcc": ("gcc", "gcc libc6-dev"),
    "git": ("git", "git"),
    "ip": ("ip", "iproute2"),
    "iperf3": ("iperf3", "iperf3"),
    "iptables": ("iptables-restore", "iptables"),
    "java": ("java", "openjdk-17-jre-headless"),
    "lxcfs": ("lxcfs", "lxcfs"),
    "mkfs_btrfs": ("mkfs.btrfs", "btrfs-progs"),
    "mkfs_ext4": ("mkfs.ext4", "e2fsprogs"),
    "mkfs_xfs": ("mkfs.xfs", "xfsprogs"),
    "mmdebstrap": ("mmdebstrap", "mmdebstrap"),
    "modprobe": ("modprobe", "kmod"),
    "nft": ("nft", "nftables"),
    "node": ("node", "nodejs"),
    "nspawn": ("systemd-nspawn", "systemd-container"),
    "openssl": ("openssl", "openssl"),
    "qemu": ("qemu-system-x86_64", "qemu-system-x86"),
    "setcap": ("setcap", "libcap2-bin"),
    "skopeo": ("skopeo", "skopeo"),
    "systemd_analyze": ("systemd-analyze", "systemd"),
    "ssh": ("ssh", "openssh-client"),
    "tini": ("tini-static", "tini"),
    "umoci": ("umoci", "umoci"),
    "unshare": ("unshare", "util-linux"),
    "xz": ("xz", "xz-utils"),
    "zstd": ("zstd", "zstd"),
}
LINK_KINDS = ("bridge", "dummy", "ifb", "ipvlan", "macvlan", "veth", "vlan")
QDISCS = {"htb": "htb", "tbf": "tbf rate 1mbit burst 10k latency 10ms"}
CONTROLLERS = {"io": "blkio"}  # cgroup2 name: its cgroup v1 name, where they differ
FILE_SYSTEMS = ("btrfs", "erofs", "ext4", "fuse", "squashfs", "xfs")


def required() -> bool:
    """Whether a test must not be skipped for want of something this machine could have."""
    return os.environ.get("VSPROV_REQUIRE", "") not in ("", "0")


def requires(*features: str) -> None:
    """Return when this machine has every one of `features`; otherwise skip the running test, with the reason.

    May be called in a test, in a fixture, or at the top of a module.
    """
    for feature in features:
        reason = lacking(feature)
        if reason is None:
            continue
        message = f"{EXPLAINED}{feature}: {reason}"
        if required() and obtainable(feature):
            pytest.fail(f"VSPROV_REQUIRE=1, and {message}", pytrace=False)
        pytest.skip(message, allow_module_level=True)


def obtainable(feature: str) -> bool:
    """Whether a feature this machine lacks is a matter of installing something, or of being root."""
    if feature in PROGRAMS:
        return not _has(PROGRAMS[feature][0])
    return feature == "root" or (feature == "vm" and not os.environ.get("VSPROV_VM"))


def missing_packages() -> list[str]:
    """The Debian packages of every program in PROGRAMS that is not installed."""
    return sorted(
        {name for program, names in PROGRAMS.values() if not _has(program) for name in names.split()}
    )


@functools.cache
def lacking(feature: str) -> str | None:
    """None when this machine has the feature, else what it lacks, in a few words."""
    if feature in PROGRAMS:
        program, packages = PROGRAMS[feature]
        if not _has(program):
            return f"no program {program}, which Debian's {packages} brings"
        return PROBES[feature]() if feature in PROBES else None
    if feature in LINK_KINDS:
        return _link_kind(feature)
    if feature in QDISCS:
        return _in_namespaces(f"ip link set lo up && tc qdisc add dev lo root {QDISCS[feature]}")
    if feature in FILE_SYSTEMS:
        return _file_system(feature)
    if feature.endswith("_controller"):
        return _controller(feature.removesuffix("_controller"))
    if feature not in PROBES:
        raise ValueError(f"no such feature: {feature}; known are {', '.join(known())}")
    return PROBES[feature]()


def known() -> list[str]:
    """Every feature name that `requires` takes; any cgroup controller as `NAME_controller` besides."""
    return sorted({*PROGRAMS, *LINK_KINDS, *QDISCS, *FILE_SYSTEMS, *PROBES})


def _has(program: str) -> bool:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


def _refusal(command: list[str]) -> str | None:
    """None when the command succeeds, else the first line of what it said."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if done.returncode == 0:
        return None
    said = (done.stderr or done.stdout).strip().splitlines()
    return said[0] if said else f"{command[0]} ends with {done.returncode}"


def _in_namespaces(script: str) -> str | None:
    return _refusal(["unshare", "--mount", "--net", "--propagation", "private", "sh", "-ec", script])


def _root() -> str | None:
    return None if os.geteuid() == 0 else "the tests are not run as root"


def _namespaces() -> str | None:
    return _refusal(
        ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--user", "--fork", "true"]
    )


def _overlay() -> str | None:
    script = (
        "mount -t tmpfs none /mnt && cd /mnt && mkdir lower upper work root && "
        "mount -t overlay none root -o lowerdir=lower,upperdir=upper,workdir=work"
    )
    return _in_namespaces(script)


def _link_kind(kind: str) -> str | None:
    if kind in ("ipvlan", "macvlan", "vlan"):
        more = " id 5" if kind == "vlan" else ""
        make = f"ip link add up type veth && ip link add link veth0 name probe type {kind}{more}"
    else:
        make = f"ip link add probe type {kind}"
    return _in_namespaces(make)


def _vlan_filtering() -> str | None:
    return _in_namespaces("ip link add probe type bridge vlan_filtering 1")


def _nft(family: str) -> Callable[[], str | None]:
    return lambda: _in_namespaces(f"nft add table {family} probe && nft list table {family} probe")


def _file_system(name: str) -> str | None:
    def listed() -> bool:
        words = Path("/proc/filesystems").read_text().split()
        return name in words

    if not listed() and _has("modprobe") and os.geteuid() == 0:
        _refusal(["modprobe", "-q", name])
    return None if listed() else f"the kernel has no file system {name}"


def _loop() -> str | None:
    return _refusal(["losetup", "--find"])


def _project_quota() -> str | None:
    if _file_system("ext4") or not _has("mkfs.ext4"):
        return "no ext4, or no mkfs.ext4"
    with tempfile.TemporaryDirectory(prefix="vt-probe-", dir=SERVERS) as folder:
        script = (
            f"truncate -s 8M {folder}/disk && "
            f"mkfs.ext4 -q -O quota,project -E quotatype=prjquota {folder}/disk && "
            f"mount -o loop,prjquota {folder}/disk /mnt && umount /mnt"
        )
        return _in_namespaces(script)


def hierarchies() -> dict[str, Path]:
    """Each mounted cgroup hierarchy, by its v1 controller or name; "" is cgroup2."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        point = Path(fields.split()[4])
        if kind == "cgroup2":
            found.setdefault("", point)
        elif kind == "cgroup":
            for name in set(options.split(",")) - {"rw", "ro"}:
                found.setdefault(name, point)
    return found


def _unified_controllers() -> list[str]:
    mount = hierarchies().get("")
    return mount.joinpath("cgroup.controllers").read_text().split() if mount else []


def _controller(name: str) -> str | None:
    if name in _unified_controllers() or CONTROLLERS.get(name, name) in hierarchies():
        return None
    return f"no cgroup controller {name}"


def _cgroup_v1() -> str | None:
    ours = {"cpu", "memory", "pids"} & set(hierarchies())
    return None if ours else "no controller of interest is on cgroup v1"


def _cgroup_v2() -> str | None:
    if "memory" not in _unified_controllers():
        return "cgroup2 is not mounted, or its controllers are on cgroup v1"
    return "some controllers are on cgroup v1" if _cgroup_v1() is None else None


def _hybrid() -> str | None:
    if "" in hierarchies() and _cgroup_v1() is None:
        return None
    return "cgroup v1 and cgroup2 are not mounted together"


def _cgroup_file(name: str) -> Callable[[], str | None]:
    def probe() -> str | None:
        mount = hierarchies().get("")
        if mount is None:
            return "cgroup2 is not mounted"
        group = mount / f"vt-probe-{os.getpid()}"
        try:
            group.mkdir()
        except OSError as error:
            return f"mkdir {group}: {error.strerror}"
        try:
            return None if (group / name).exists() else f"the kernel has no {name}"
        finally:
            group.rmdir()

    return probe


def _swap_limit() -> str | None:
    memory = hierarchies().get("memory")
    known_by = memory / "memory.memsw.limit_in_bytes" if memory else Path("/proc/swaps")
    return None if known_by.exists() else f"the kernel has no {known_by.name}"


def _capability(number: int) -> Callable[[], str | None]:
    def probe() -> str | None:
        found = re.search(r"^CapEff:\s*(\S+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        held = found is not None and int(found.group(1), 16) >> number & 1
        return None if held else f"capability {number} is not held"

    return probe


def _huge_pages() -> str | None:
    sizes = Path("/sys/kernel/mm/hugepages")
    return None if sizes.is_dir() else "the kernel has no huge pages"


def _swap() -> str | None:
    lines = Path("/proc/swaps").read_text().splitlines()
    return None if len(lines) > 1 else "no swap is in use"


def _idmap() -> str | None:
    """Try an idmapped bind of the folder that holds the tests' servers, as mount_setattr(2) shows it."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, gate = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        ok = libc.unshare(CLONE_NEWUSER) == 0
        os.write(ready[1], b"1" if ok else b"0")
        os.close(gate[1])
        os.read(gate[0], 1)
        os._exit(0)
    tree = namespace = -1
    try:
        if os.read(ready[0], 1) != b"1":
            return "no user namespaces"
        for which in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{which}").write_text("0 524288 65536\n")
        namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
        folder = str(SERVERS).encode()
        tree = libc.syscall(SYS_OPEN_TREE, AT_FDCWD, folder, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        if tree < 0:
            return f"open_tree: {os.strerror(ctypes.get_errno())}"
        attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_IDMAP, 0, 0, namespace)
        size = ctypes.sizeof(attributes)
        if libc.syscall(SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, ctypes.byref(attributes), size):
            return f"mount_setattr on {folder.decode()}: {os.strerror(ctypes.get_errno())}"
        return None
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for fd in (*ready, *gate, tree, namespace):
            if fd >= 0:
                os.close(fd)


def _vm() -> str | None:
    if os.environ.get("VSPROV_VM"):
        return "this is the emulated machine already"
    wanted = ("busybox", "mkfs_ext4", "modprobe", "qemu")
    return next((reason for reason in map(lacking, wanted) if reason is not None), None)


def _own_clock() -> str | None:
    """Whether nobody else uses the clock, which no namespace has of its own."""
    return None if os.environ.get("VSPROV_VM") else "this is not the emulated machine"


PROBES: dict[str, Callable[[], str | None]] = {
    "cap_sys_resource": _capability(24),
    "cgroup_kill": _cgroup_file("cgroup.kill"),
    "cgroup_v1": _cgroup_v1,
    "cgroup_v2": _cgroup_v2,
    "hugetlb": lambda: _huge_pages() or _controller("hugetlb"),
    "hybrid": _hybrid,
    "idmap": _idmap,
    "loop": _loop,
    "namespaces": _namespaces,
    "nft": _nft("inet"),
    "nft_bridge": _nft("bridge"),
    "overlay": _overlay,
    "own_clock": _own_clock,
    "project_quota": _project_quota,
    "psi": _cgroup_file("memory.pressure"),
    "root": _root,
    "swap": _swap,
    "swap_limit": _swap_limit,
    "vlan_filtering": _vlan_filtering,
    "vm": _vm,
}

if __name__ == "__main__":
    print(*missing_packages())
