"""What every child's list ends with: who to be, with which capabilities and limits, where; the command."""

from __future__ import annotations

import os
from errno import EACCES, ENOENT, ENOTDIR
from struct import pack

from .machine import SIZE, obtain
from .program import CONSTANTS, EMPTY, Program, how
from .sys_calls import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    CAPABILITIES,
    CAPABILITY_VERSION_3,
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP,
    RESOLVE_NO_MAGICLINKS,
    SECCOMP_MODE_FILTER,
)
from .users import HOME_SIZE

TYPE_CHECKING = False  # importing typing would double the heap every child copies
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .machine import Memory
    from .report import Failure

    Ids = tuple[int, int, list[int]]

# Fds every child finds: its end of the channel to its maker; the program of a server's reaper.
CHANNEL, REAPER = 3, 4
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DIRECTORY = how(os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_MAGICLINKS)


class Recipe(Program):
    """The list of a child, and where in it is what its maker has to know."""

    __slots__ = ("candidates", "capabilities", "cwd", "home", "mounts", "places", "user")

    user: int  # the position of setgroups, setresgid, setresuid and capset
    capabilities: tuple[int, ...]  # addresses of the sets of root, and of any other user
    cwd: int  # where in the memory the kernel puts the name of the working directory
    candidates: range  # positions of the attempts to execute

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self.home = -1  # where in the memory the environment's HOME is, if it is to be filled in
        self.mounts: list[int] = []  # where the numbers go of the root and of what may be mounted on
        self.places: list[tuple[str, int]] = []  # targets, and where the number goes of the mount they are on

    def outside(self) -> bool:
        """Whether the working directory turned out to lie outside the root (CVE-2024-21626)."""
        return self.memory.bytes[self.cwd : self.cwd + 1] != b"/"  # "(unreachable)/…"

    def failure(self) -> Failure | None:
        """What went wrong, of a child that has ended."""
        position = self.memory.failed()
        if position is None:
            return None
        step, path = self.told[position]
        number = -self.memory.result(position)
        if position == self.candidates.stop:
            refused = any(self.memory.result(each) == -EACCES for each in self.candidates)
            number = EACCES if refused else ENOENT
        if number <= 0:
            return step, 0, path, f"unexpected result {-number}"
        return step, number, path, os.strerror(number)


def new_recipe(spec: dict[str, Any]) -> Recipe:
    """An empty list with memory enough for a request."""
    hidden = (*spec.get("masks", ()), *spec.get("read_only_paths", ()))
    groups, mounts = spec["cgroup"]["attach"], [entry["target"] for entry in spec.get("mounts", ())]
    calls = 250 + len(spec["rlimits"]) + 6 * len(hidden) + 3 * len(groups)
    calls += 2 * spec["env"].get("PATH", "").count(":") + sum(22 + 6 * target.count("/") for target in mounts)
    texts = 24576 + 4 * HOME_SIZE + len(spec.get("seccomp") or b"")
    for text in (*spec["argv"], *spec["env"], *spec["env"].values(), *hidden, *groups):
        texts += 4 * len(text) + 64
    for target in mounts:
        texts += (4 * len(target) + 64) * (2 + 2 * target.count("/")) + 2 * 264
    return Recipe(obtain(calls * SIZE, texts))


_parts: dict[object, Program] = {}


def add_part(p: Program, key: object, write: Callable[[Program], None]) -> None:
    """Add calls that many servers have in common; written only once while there is room to keep them."""
    if key in _parts:
        p.add(_parts[key])
    elif CONSTANTS.size - CONSTANTS.cursor > 65536:
        kept = _parts[key] = Program(CONSTANTS)
        write(kept)
        p.add(kept)
    else:
        write(p)


def ask(p: Program, question: bytes) -> None:
    """Say something to the spawner and wait for its answer; its end ends the child."""
    p.call("write", CHANNEL, question, 1, want=1)
    p.call("read", CHANNEL, bytes(1), 1, want=1)


def write_confinement(p: Recipe, spec: dict[str, Any], fd: int, ids: Ids) -> None:
    """User, capabilities, limits, seccomp and working directory: all that remains before execve.

    Root keeps the capabilities; any other user has none to use.
    """
    kept, seccomp = tuple(spec["capabilities"]), spec.get("seccomp")
    add_part(p, ("bounding", kept), lambda q: _bounding(q, kept))
    if seccomp and not spec["no_new_privs"]:
        _seccomp(p, seccomp)
    p.step, p.user = f"user {spec['user']}", len(p.calls)
    mask = sum(1 << number for number in set(kept))
    p.capabilities = tuple(p.memory.text(_capabilities(each)) for each in (mask, 0))
    uid, gid, groups = ids
    p.call("setgroups", len(groups), pack(f"{len(groups)}I", *groups))
    p.call("setresgid", gid, gid, gid)
    p.call("setresuid", uid, uid, uid)
    p.call("capset", pack("Ii", CAPABILITY_VERSION_3, 0), p.capabilities[uid != 0])
    p.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    p.step = f"working directory {spec['cwd']}"
    p.open_inside(fd, os.fsencode(spec["cwd"]), DIRECTORY)
    p.call("fchdir", fd)
    p.call("close", fd)
    p.cwd = p.memory.text(bytes(4096)) - p.memory.address
    p.call("getcwd", p.memory.address + p.cwd, 4096)
    p.call("umask", spec["umask"])
    for number, soft, hard in spec["rlimits"]:
        p.step = f"rlimit {number}"
        p.call("prlimit64", 0, number, pack("2q", soft, hard), None)
    if spec["no_new_privs"]:
        p.step = "no_new_privs"
        p.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if seccomp:
            _seccomp(p, seccomp)


def _bounding(p: Program, kept: tuple[int, ...]) -> None:
    p.step = "capabilities"
    p.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(CAPABILITIES):
        if capability not in kept:
            p.call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)


def _capabilities(mask: int) -> bytes:
    """The effective and permitted sets exactly `mask`, the inheritable one empty."""
    low, high = mask & 0xFFFFFFFF, mask >> 32
    return pack("6I", low, low, 0, high, high, 0)


def _seccomp(p: Program, program: bytes) -> None:
    """Install a classic BPF filter given as packed struct sock_filter."""
    p.step = "seccomp"
    filters = pack("HxxxxxxQ", len(program) // 8, p.memory.text(program))
    p.call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filters, 0, 0)


def settle(p: Recipe, home: str) -> None:
    """Fill in the home directory, if it is asked for."""
    if p.home >= 0:
        content = b"HOME=" + os.fsencode(home) + b"\0"
        p.memory.bytes[p.home : p.home + len(content)] = content


def become(p: Recipe, uid: int, gid: int, groups: list[int]) -> None:
    """Fill in the ids a finished program has been waiting for."""
    text = p.memory.text
    p.memory.change(p.user, len(groups), text(pack(f"{len(groups)}I", *groups)))
    p.memory.change(p.user + 1, gid, gid, gid)
    p.memory.change(p.user + 2, uid, uid, uid)
    if uid:
        p.memory.change(p.user + 3, p.memory.text(pack("Ii", CAPABILITY_VERSION_3, 0)), p.capabilities[1])


def write_execution(p: Recipe, spec: dict[str, Any]) -> None:
    """Execute the command, looked for on the server's own PATH; below the reaper if there is one."""
    command, env = spec["argv"][0], spec["env"]
    text = p.memory.text
    p.step = f"exec {command}"
    variables: list[str | int] = [f"{name}={value}" for name, value in env.items()]
    if spec.get("home") and "HOME" not in env:
        variables.append(text(b"HOME=/root" + bytes(4 * HOME_SIZE)))
        p.home = int(variables[-1]) - p.memory.address
    environment = _pointers(p, variables)
    argv = spec["argv"]
    searched = "/" not in command
    programs = [command]
    if searched:
        programs = [f"{folder or '.'}/{command}" for folder in env.get("PATH", DEFAULT_PATH).split(":")]
    first = len(p.calls)
    elsewhere = [(number, 1) for number in (ENOENT, ENOTDIR, EACCES)] if searched else []
    arguments = _pointers(p, argv)
    for program in programs:
        path = text(os.fsencode(program))
        if spec.get("reaper") is None:
            p.call("execve", path, arguments, environment, on=elsewhere, path=program)
        else:
            absent = [(number, 2) for number in (ENOENT, ENOTDIR, EACCES)] if searched else []
            p.call("faccessat2", AT_FDCWD, path, os.X_OK, AT_EACCESS, on=absent, path=program)
            below = _pointers(p, [spec["reaper"], "--", program, *argv[1:]])
            p.call("execveat", REAPER, EMPTY, below, environment, AT_EMPTY_PATH, path=spec["reaper"])
    p.candidates = range(first, len(p.calls))
    if searched:
        p.call("close", -1, path=command)  # fails: it was nowhere to be found


def _pointers(p: Program, texts: Sequence[str | int]) -> bytes:
    """Pointers to these texts, of which some may be in the memory already; and a null pointer."""
    addresses = [each if isinstance(each, int) else p.memory.text(os.fsencode(each)) for each in texts]
    return pack(f"{len(addresses) + 1}Q", *addresses, 0)
