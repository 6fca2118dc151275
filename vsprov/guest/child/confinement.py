"""What every child's program ends with: user, capabilities, limits, working directory, and the command."""

from __future__ import annotations

import os
from errno import EACCES, EDQUOT, ENOENT, ENOSYS, ENOTDIR
from struct import pack

from ..sys_calls import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    CAPABILITIES,
    CAPABILITY_VERSION_3,
    KEYCTL_JOIN_SESSION_KEYRING,
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP,
    PR_SET_SECUREBITS,
    RESOLVE_NO_MAGICLINKS,
    SECCOMP_MODE_FILTER,
)
from ..users import HOME_SIZE
from .program import EMPTY, REAPER, ChildProgram, Program, add_part, how

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..wire import Process

    Ids = tuple[int, int, list[int]]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DIRECTORY = how(os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_MAGICLINKS)


def write_confinement(p: ChildProgram, process: Process, fd: int, ids: Ids) -> None:
    """User, capabilities, working directory, limits and seccomp: all that remains before execve.

    Root keeps the capabilities of the bounding set; any other user has none.
    """
    kept, seccomp = tuple(process["capabilities"]), process.get("seccomp")
    add_part(p, "keyring", _keyring)
    add_part(p, ("bounding", kept), lambda q: _bounding(q, kept))
    if seccomp and not process["no_new_privs"]:
        _seccomp(p, seccomp)  # without no_new_privs it takes CAP_SYS_ADMIN, which is dropped next
    p.step, p.user = f"user {process['user']}", len(p.calls)
    mask = sum(1 << number for number in set(kept))
    p.capabilities = tuple(p.memory.text(_capability_sets(each)) for each in (mask, 0))
    uid, gid, groups = ids
    p.call("setgroups", len(groups), pack(f"{len(groups)}I", *groups))
    p.call("setresgid", gid, gid, gid)
    p.call("setresuid", uid, uid, uid)
    p.call("capset", pack("Ii", CAPABILITY_VERSION_3, 0), p.capabilities[uid != 0])
    p.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    p.step = f"working directory {process['cwd']}"
    p.open_inside(fd, os.fsencode(process["cwd"]), DIRECTORY)
    p.call("fchdir", fd)
    p.call("close", fd)
    p.cwd = p.memory.text(bytes(4096)) - p.memory.address
    p.call("getcwd", p.memory.address + p.cwd, 4096)
    p.call("umask", process["umask"])
    for number, soft, hard in process["rlimits"]:
        p.step = f"rlimit {number}"
        p.call("prlimit64", 0, number, pack("2q", soft, hard), None)
    if process["no_new_privs"]:
        p.step = "no_new_privs"
        p.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if seccomp:
            _seccomp(p, seccomp)


def _keyring(p: Program) -> None:
    """Leave the session keyring of our caller for a new one of the server's root; session-keyring(7).

    The quota of keys of that user may be used up (200 commands at once). The spawner and `enter` have each
    joined a new keyring too, so nothing of the caller's is ever left.
    """
    p.step = "session keyring"
    p.call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, None, on=((EDQUOT, 1), (ENOSYS, 1)))


def _bounding(p: Program, kept: tuple[int, ...]) -> None:
    p.step = "capabilities"
    p.call("prctl", PR_SET_SECUREBITS, 0, 0, 0, 0)
    p.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(CAPABILITIES):
        if capability not in kept:
            p.call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)


def _capability_sets(mask: int) -> bytes:
    """Effective and permitted set exactly `mask`, inheritable set empty; capset(2)."""
    low, high = mask & 0xFFFFFFFF, mask >> 32
    return pack("6I", low, low, 0, high, high, 0)


def _seccomp(p: Program, program: bytes) -> None:
    """Install a classic BPF filter, given as packed struct sock_filter."""
    p.step = "seccomp"
    filters = pack("HxxxxxxQ", len(program) // 8, p.memory.text(program))
    p.call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filters, 0, 0)


def set_home(p: ChildProgram, home: str) -> None:
    """Fill in the home directory of a finished program, if it needs one."""
    if p.home >= 0:
        content = b"HOME=" + os.fsencode(home) + b"\0"
        p.memory.bytes[p.home : p.home + len(content)] = content


def set_ids(p: ChildProgram, uid: int, gid: int, groups: list[int]) -> None:
    """Fill in the ids of a finished program."""
    text = p.memory.text
    p.memory.change(p.user, len(groups), text(pack(f"{len(groups)}I", *groups)))
    p.memory.change(p.user + 1, gid, gid, gid)
    p.memory.change(p.user + 2, uid, uid, uid)
    if uid:
        p.memory.change(p.user + 3, p.memory.text(pack("Ii", CAPABILITY_VERSION_3, 0)), p.capabilities[1])


def write_execution(p: ChildProgram, process: Process, reaper: str | None = None) -> None:
    """Execute the command, searched for on the server's own PATH; below the reaper if there is one."""
    command, env = process["argv"][0], process["env"]
    text = p.memory.text
    p.step = f"exec {command}"
    variables: list[str | int] = [f"{name}={value}" for name, value in env.items()]
    if process["home"] and "HOME" not in env:
        variables.append(text(b"HOME=/root" + bytes(4 * HOME_SIZE)))
        p.home = int(variables[-1]) - p.memory.address
    environment = _pointers(p, variables)
    argv = process["argv"]
    searched = "/" not in command
    programs = [command]
    if searched:
        programs = [f"{folder or '.'}/{command}" for folder in env.get("PATH", DEFAULT_PATH).split(":")]
    first = len(p.calls)
    elsewhere = [(number, 1) for number in (ENOENT, ENOTDIR, EACCES)] if searched else []
    arguments = _pointers(p, argv)
    for program in programs:
        path = text(os.fsencode(program))
        if reaper is None:
            p.call("execve", path, arguments, environment, on=elsewhere, path=program)
        else:
            absent = [(number, 2) for number in (ENOENT, ENOTDIR, EACCES)] if searched else []
            p.call("faccessat2", AT_FDCWD, path, os.X_OK, AT_EACCESS, on=absent, path=program)
            below = _pointers(p, [reaper, "--", program, *argv[1:]])
            p.call("execveat", REAPER, EMPTY, below, environment, AT_EMPTY_PATH, path=reaper)
    p.candidates = range(first, len(p.calls))
    if searched:
        p.call("close", -1, path=command)  # always fails: the command was not found


def _pointers(p: Program, texts: Sequence[str | int]) -> bytes:
    """A null-terminated array of pointers to these texts; a number is an address already."""
    addresses = [each if isinstance(each, int) else p.memory.text(os.fsencode(each)) for each in texts]
    return pack(f"{len(addresses) + 1}Q", *addresses, 0)
