"""Check the kernel features and programs that vsprov depends on.

Features are tested by using them where that is cheap. Probes only create detached mounts, unnamed files and
processes with namespaces of their own, none of which outlives the probe.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal

from vsprov.engine.guests import console_log
from vsprov.engine.guests.request import find_reaper
from vsprov.engine.look import machine as machines
from vsprov.engine.look import observe
from vsprov.errors import HostError, VsprovError, reason
from vsprov.kernel import cgroup, overlay, paths, proc, syscall
from vsprov.kernel.cgroup import V1_NAMES, Hierarchies
from vsprov.model.limits.knobs import BY_PATH, KNOBS
from vsprov.model.values.names import CAPABILITIES
from vsprov.plan import ranges
from vsprov.plan.observed import Machine
from vsprov.store import claims
from vsprov.store.instance import Instance

State = Literal["ok", "degraded", "missing"]

# Required to create servers; without SYS_RESOURCE only hard limits cannot be raised.
NEEDED_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FOWNER KILL SETGID SETUID SETPCAP NET_ADMIN SYS_CHROOT SYS_PTRACE SYS_ADMIN".split()
)
NAMESPACES = {
    "mnt": syscall.CLONE_NEWNS,
    "pid": syscall.CLONE_NEWPID,
    "uts": syscall.CLONE_NEWUTS,
    "ipc": syscall.CLONE_NEWIPC,
    "net": syscall.CLONE_NEWNET,
    "user": syscall.CLONE_NEWUSER,
    "cgroup": syscall.CLONE_NEWCGROUP,
}
SWAP = BY_PATH["memory.swapMax"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One feature. `found` is what was found or the error; `cost` is what does not work without it."""

    feature: str
    state: State
    found: str
    cost: str = ""

    @property
    def fatal(self) -> bool:
        """Whether no server can run without it."""
        return self.state == "missing"


def examine(instance: Instance) -> list[Finding]:
    """All features, the most important first."""
    if not os.path.exists("/proc/self/mountinfo"):
        return [Finding("/proc", "missing", "not mounted", "mount -t proc proc /proc")]
    findings = [_capabilities(), *map(_namespace, NAMESPACES)]
    findings += [
        _try("openat2", _openat2, "paths inside a server cannot be opened safely"),
        _try(
            "pidfd",
            lambda: os.close(os.pidfd_open(os.getpid())),
            "a reused pid could be mistaken for a server",
        ),
        _try("mount API", _mount_api, "root file systems cannot be mounted"),
        _try(
            "clone3 CLONE_INTO_CGROUP",
            _clone_into_cgroup,
            "a server would briefly run outside its cgroup",
        ),
        _overlay(),
        _try(
            "overlay lowerdir+",
            _lowerdir,
            "images of more than about 60 layers cannot be mounted",
            "degraded",
        ),
        _idmap("state root", paths.existing(instance.root)),
        _idmap("/usr", "/usr"),
        _trusted(paths.existing(instance.root)),
        _upper(paths.existing(instance.root)),
    ]
    try:
        hierarchies = cgroup.find()
    except HostError as error:
        return [*findings, Finding("cgroup2", "missing", str(error), error.hint), *_programs()]
    machine = machines.look(hierarchies, (), instance.name)
    findings += [
        *_ranges(instance, hierarchies, machine),
        _cgroup2(hierarchies),
        _cgroup_kill(hierarchies),
        *_controllers(machine),
        _swap(machine),
        _hugetlb(),
        *_keeper(instance),
    ]
    return [*findings, *_programs(), *_knobs(machine)]


def _try(feature: str, probe: Callable[[], None], cost: str, otherwise: State = "missing") -> Finding:
    """A finding for a feature that is available if its probe does not raise OSError."""
    try:
        probe()
    except OSError as error:
        return Finding(feature, otherwise, reason(error), cost)
    except HostError as error:
        return Finding(feature, otherwise, str(error), error.hint)
    return Finding(feature, "ok", "")


def _in_child(work: Callable[[], None]) -> None:
    """Run `work` in a child process, whose namespaces end with it; its OSError is raised here."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            work()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise OSError(code, os.strerror(code) if 0 < code < 255 else f"the probe exited with code {code}")


# -- this process


def _capabilities() -> Finding:
    held = proc.capabilities()
    lacking = [name for name in NEEDED_CAPABILITIES if not held >> CAPABILITIES.index(name) & 1]
    if lacking:
        found = "not root" if os.geteuid() != 0 else f"root without {', '.join(lacking)}"
        return Finding("capabilities", "missing", found, "run it with sudo")
    if not held >> CAPABILITIES.index("SYS_RESOURCE") & 1:
        cost = "hard resource limits cannot be raised above those of this process"
        return Finding("capabilities", "degraded", "root without SYS_RESOURCE", cost)
    return Finding("capabilities", "ok", "root")


def _namespace(name: str) -> Finding:
    return _try(
        f"namespace {name}",
        lambda: _in_child(lambda: syscall.unshare(NAMESPACES[name])),
        "check the sysctls user.max_*_namespaces, and whether a container runtime forbids it",
    )


# -- system calls


def _openat2() -> None:
    os.close(
        syscall.openat2(
            syscall.AT_FDCWD, "/", os.O_PATH, syscall.RESOLVE_IN_ROOT | syscall.RESOLVE_NO_MAGICLINKS
        )
    )


def _mount_api() -> None:
    context = syscall.fsopen("tmpfs")
    try:
        syscall.fsconfig(context, syscall.FSCONFIG_CMD_CREATE)
        os.close(syscall.fsmount(context))
    finally:
        os.close(context)


def _lowerdir() -> None:
    context = syscall.fsopen("overlay")
    try:
        syscall.fsconfig(context, syscall.FSCONFIG_SET_STRING, "lowerdir+", b"/usr")
    finally:
        os.close(context)


def _clone_into_cgroup() -> None:
    hierarchies = cgroup.find()
    own = proc.groups_of(os.getpid()).get("", "/").lstrip("/")
    group = os.open(hierarchies.directory("", own), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pid = syscall.fork_into_cgroup(group)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    finally:
        os.close(group)


# -- file systems


@contextmanager
def _mapped_process() -> Iterator[int]:
    """The pid of a child process in a user namespace of its own with mapped ids, until the context exits."""
    ready, ready_end = os.pipe()
    gate, gate_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(gate_end)
            syscall.unshare(syscall.CLONE_NEWUSER)
            os.write(ready_end, b"1")
            os.read(gate, 1)
        finally:
            os._exit(0)
    os.close(ready_end)
    os.close(gate)
    try:
        if not os.read(ready, 1):
            raise OSError(errno.EPERM, "no user namespace")
        for kind in ("uid", "gid"):
            with open(f"/proc/{pid}/{kind}_map", "w") as file:
                file.write("0 524288 65536")
        yield pid
    finally:
        os.close(gate_end)
        os.close(ready)
        os.waitpid(pid, 0)


def _idmap(what: str, path: str) -> Finding:
    """Whether the file system of a path supports idmapped mounts, tested with a detached mount."""
    kind = overlay.file_system(path)

    def probe() -> None:
        with _mapped_process() as pid:
            users = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            tree = syscall.open_tree(syscall.AT_FDCWD, path, syscall.OPEN_TREE_CLONE)
            try:
                syscall.mount_setattr(tree, "", syscall.MOUNT_ATTR_IDMAP, userns=users)
            finally:
                os.close(tree)
                os.close(users)

    finding = _try(
        f"idmapped mounts of {what}", probe, f"{path}: files appear as owned by nobody in servers", "degraded"
    )
    return Finding(finding.feature, finding.state, f"{kind} {finding.found}".strip(), finding.cost)


def _overlay() -> Finding:
    """Mount an overlay on a tmpfs, in a mount namespace that ends with the probe."""

    def work() -> None:
        syscall.unshare(syscall.CLONE_NEWNS)
        syscall.mount("none", "/", None, syscall.MS_REC | syscall.MS_PRIVATE)
        syscall.mount("tmpfs", "/tmp", "tmpfs", 0)
        for name in ("lower", "upper", "work", "root"):
            os.mkdir(f"/tmp/{name}")
        syscall.mount(
            "overlay", "/tmp/root", "overlay", 0, "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"
        )

    return _try("overlay", lambda: _in_child(work), "servers cannot use images; try modprobe overlay")


def _trusted(folder: str) -> Finding:
    """Whether files can have trusted.* extended attributes, tested with an unnamed file."""

    def probe() -> None:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.setxattr(fd, "trusted.vsprov.probe", b"1")
        finally:
            os.close(fd)

    cost = f"{folder}: required for owner marks and overlay; choose another --root"
    return _try("trusted attributes of state root", probe, cost)


def _upper(folder: str) -> Finding:
    """Whether the upper layers of servers can be in the file system of the state root."""
    cost = f"{folder}: required for what servers write; choose another --root"
    finding = _try("upper layers in state root", lambda: overlay.refuse_upper(folder), cost)
    return replace(finding, found=f"{overlay.file_system(folder)} {finding.found}".strip())


# -- control groups


def _cgroup2(hierarchies: Hierarchies) -> Finding:
    layout = "hybrid with v1" if hierarchies.v1 else "pure"
    return Finding("cgroup2", "ok", f"{hierarchies.cgroup2}, {layout}")


def _cgroup_kill(hierarchies: Hierarchies) -> Finding:
    # The root group does not have this file. Check another group, or else the version of the kernel.
    for name in cgroup.children(hierarchies.cgroup2):
        available = os.path.exists(f"{hierarchies.cgroup2}/{name}/cgroup.kill")
        break
    else:
        available = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (5, 14)
    if available:
        return Finding("cgroup.kill", "ok", "")
    return Finding(
        "cgroup.kill", "missing", "this kernel is older than 5.14", "servers cannot be killed as a whole"
    )


def _controllers(machine: Machine) -> Iterator[Finding]:
    for name in V1_NAMES:
        version = machine.versions.get(name)
        if version:
            yield Finding(f"controller {name}", "ok", f"cgroup v{version}")
        else:
            lost = ", ".join(knob.path for knob in KNOBS if knob.controller == name)
            yield Finding(f"controller {name}", "degraded", "not available", f"no {lost}")


def _swap(machine: Machine) -> Finding:
    if lack := machine.lack(SWAP):
        return Finding("swap accounting", "degraded", lack, f"no {SWAP.path}; boot with swapaccount=1")
    return Finding("swap accounting", "ok", "")


def _hugetlb() -> Finding:
    with suppress(OSError):
        sizes = sorted(name.removeprefix("hugepages-") for name in os.listdir("/sys/kernel/mm/hugepages"))
        if sizes:
            return Finding("huge pages", "ok", ", ".join(sizes))
    return Finding("huge pages", "degraded", "none", "no hugepages")


def _knobs(machine: Machine) -> Iterator[Finding]:
    """The knobs that this host does not support although it has their controller."""
    for knob in KNOBS:
        lack = machine.lack(knob)
        if lack and knob.controller in machine.versions and knob is not SWAP:
            yield Finding(f"knob {knob.path}", "degraded", "not supported", lack)


# -- ids


def _ranges(instance: Instance, hierarchies: Hierarchies, machine: Machine) -> Iterator[Finding]:
    """Problems of the id ranges of servers, and claims of instances whose state root does not exist."""
    try:
        host = claims.read(instance)
        seen = observe.observe(instance, hierarchies, machine)
    except VsprovError as error:
        yield Finding("id ranges", "degraded", str(error), error.hint)
        return
    found = ranges.problems(seen.servers, host)
    for name, problem in found.items():
        yield Finding("id ranges", "degraded", f"Server/{name}: {problem.message}", problem.hint)
    for holder, blocks in claims.gone(host).items():
        name, _, root = holder.partition(" ")
        files = " ".join(f"{claims.FOLDER}/{block}" for block in sorted(blocks))
        cost = f"if it was removed for good, free its ids: rm {files}"
        yield Finding("id ranges", "degraded", f"instance {name}: no state root {root}", cost)
    if not found:
        yield Finding("id ranges", "ok", f"{len(seen.id_bases())} in use")


# -- programs


def _programs() -> Iterator[Finding]:
    if reaper := find_reaper():
        yield Finding("reaper", "ok", reaper)
    else:
        yield Finding(
            "reaper", "degraded", "neither catatonit nor tini found", "no init.reaper; apt install catatonit"
        )
    if find_spec("zstandard"):
        yield Finding("zstd", "ok", "")
    else:
        yield Finding(
            "zstd", "degraded", "no zstandard module", "no images from .tar.zst; pip install zstandard"
        )
    from vsprov.store.sources import bootstrap

    try:
        yield Finding("bootstrap", "ok", bootstrap.find_program())
    except HostError as error:
        found, cost = str(error).rpartition(": ")[2], f"no source.bootstrap; {error.hint}"
        yield Finding("bootstrap", "degraded", found, cost)


def _keeper(instance: Instance) -> Iterator[Finding]:
    """The servers whose output no keeper copies; nothing if no server was created."""
    if os.geteuid() != 0 or not os.path.isdir(instance.servers):
        return
    if names := console_log.unattended(instance):
        found = f"none that copies the output of {' '.join(sorted(names))}"
        cost = "logs lack the end, and servers block when 256 KiB wait; vsprov apply starts the keeper"
        yield Finding("keeper", "degraded", found, cost)
    else:
        yield Finding("keeper", "ok", "")
