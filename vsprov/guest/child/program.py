"""Writing the list of system calls of a child; `syscall_list` describes the format and runs it."""

from __future__ import annotations

import os
from errno import EACCES, EAGAIN, ENOENT
from struct import pack

from ..sys_calls import (
    AT_FDCWD,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
)
from ..syscall_list import CALL, SIZE, Memory, obtain
from ..users import HOME_SIZE

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..report import Failure
    from ..wire import Enter, Guest, Process

    Argument = int | bytes | None

# The fds that every child finds open: its end of the channel to the process that made it, and a server's
# reaper.
CHANNEL, REAPER = 3, 4
# The messages on the channel, one byte each. A child writes READY, or first WHO to ask for its user; its
# parent sends the mounts, and GO to let it continue.
WHO, READY, MOUNTS, GO = b"u", b"r", b"m", b"g"
PATH = b"p"  # with a number of 2 bytes: create this path, which leads through a dangling link

PRIVATE = MS_NOSUID | MS_NODEV | MS_NOEXEC
READ_ONLY = pack("4Q", MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr

# Numbers on x86_64, and on the architectures added later.
_NUMBERS = {
    "capset": (126, 91), "chdir": (80, 49), "close": (3, 57), "dup3": (292, 24), "execve": (59, 221),
    "execveat": (322, 281), "fchdir": (81, 50), "getcwd": (79, 17), "ioctl": (16, 29),
    "keyctl": (250, 219), "mkdirat": (258, 34), "mount": (165, 40), "openat": (257, 56),
    "pivot_root": (155, 41), "prctl": (157, 167),
    "prlimit64": (302, 261), "read": (0, 63), "recvmsg": (47, 212), "rt_sigprocmask": (14, 135),
    "setgroups": (116, 159), "sethostname": (170, 161), "setns": (308, 268), "setresgid": (119, 149),
    "setresuid": (117, 147), "setsid": (112, 157), "socket": (41, 198), "statx": (332, 291),
    "symlinkat": (266, 36),
    "umask": (95, 166), "umount2": (166, 39), "unshare": (272, 97), "write": (1, 64),
}  # fmt: skip
NUMBERS = {
    **{name: pair[os.uname().machine != "x86_64"] for name, pair in _NUMBERS.items()},
    # Calls from 424 on have the same number on every architecture.
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "close_range": 436,
    "openat2": 437, "faccessat2": 439, "mount_setattr": 442,
}  # fmt: skip
CONSTANTS = Memory(1 << 20, 0)


class Program:
    """A list of system calls being written, and for each call the step it belongs to.

    `step` names what the calls added next are part of. Distances count calls: 1 is the next one.
    """

    __slots__ = ("calls", "memory", "step", "steps")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.calls: list[bytes] = []
        self.steps: list[tuple[str, str | None]] = []  # of each call: its step, and the path to report
        self.step = "start"

    def call(
        self,
        name: str,
        *arguments: Argument,
        want: int = -1,
        skip: int = 1,
        on: Iterable[tuple[int, int]] = (),
        path: str | None = None,
    ) -> None:
        """Add a call. An argument of bytes is stored and passed as its address; None is a null pointer.

        `want`: the only successful result (-1: any); `skip`: the distance to the next call; `on`: up to three
        errnos that are not failures, each with the distance to the next call (0: the same call again);
        `path`: reported on failure.
        """
        words = [NUMBERS[name]]
        for each in arguments:
            words.append(each if isinstance(each, int) else self.memory.text(each) if each is not None else 0)
        words += (0,) * (8 - len(words))
        words += (want, skip * SIZE)
        for number, distance in on:
            words += (number, distance * SIZE)
        words += (0,) * (16 - len(words))
        self.calls.append(CALL.pack(*words))
        self.steps.append((self.step, path))

    def skip_to_end(self, position: int) -> None:
        """Make the call at this position, when it succeeds, skip every call added after it so far."""
        words = list(CALL.unpack(self.calls[position]))
        words[9] = (len(self.calls) - position) * SIZE
        self.calls[position] = CALL.pack(*words)

    def add(self, part: Program) -> None:
        """Append all calls of another program."""
        self.calls += part.calls
        self.steps += part.steps

    def finish(self) -> None:
        """Write the list to the memory that the child reads."""
        self.memory.load(b"".join(self.calls))

    # Calls that mostly have the same arguments.

    def open_inside(
        self,
        fd: int,
        path: bytes,
        how: int,
        on: Iterable[tuple[int, int]] = (),
        skip: int = 1,
        base: int = AT_FDCWD,
    ) -> None:
        """openat2(2) with a struct open_how made by `how()`; the result must be `fd`. Up to two errnos `on`.

        It is made again on EAGAIN: somewhere on the host a rename or a mount met a ".." of the path.
        """
        on = (*on, (EAGAIN, 0))
        self.call("openat2", base, path, how, 24, want=fd, on=on, skip=skip, path=os.fsdecode(path))

    def write_file(self, fd: int, path: str, content: bytes) -> None:
        """Open a file, which must become `fd`, write the content to it and close it."""
        flags = os.O_WRONLY | os.O_CLOEXEC
        self.call("openat", AT_FDCWD, os.fsencode(path), flags, 0, want=fd, path=path)
        self.call("write", fd, content, len(content), want=len(content), path=path)
        self.call("close", fd)

    def mount(self, kind: bytes, target: bytes, flags: int, options: bytes | None = None) -> None:
        """mount(2) of a new file system."""
        self.call("mount", kind, target, kind, flags, options, path=os.fsdecode(target))

    def move_mount(self, tree: int, target: int) -> None:
        """Attach the detached mount `tree` where the fd `target` is."""
        self.call("move_mount", tree, EMPTY, target, EMPTY, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)

    def ask(self, question: bytes) -> None:
        """Send a message on the channel and wait for the answer; end of file ends the child."""
        self.call("write", CHANNEL, question, 1, want=1)
        self.call("read", CHANNEL, bytes(1), 1, want=1)


class ChildProgram(Program):
    """The whole program of one child, with the positions and addresses that its parent needs."""

    __slots__ = (
        "absent", "candidates", "capabilities", "cgroups", "cwd", "home", "mounts", "targets", "terminal",
        "user",
    )  # fmt: skip

    user: int  # position of setgroups; setresgid, setresuid and capset follow it
    capabilities: tuple[int, ...]  # addresses of the sets for root, and for any other user
    cwd: int  # offset in the memory of the buffer for getcwd
    candidates: range  # positions of the attempts to execute

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self.cgroups = -1  # position of the choice between mounts of control groups, if there is one
        self.terminal = -1  # the fd of the master of the console
        self.home = -1  # offset in the memory of the variable HOME, if it has to be filled in
        self.absent: list[tuple[str, str, bool]] = []  # paths to ask for: step, path, whether a directory
        self.mounts: list[int] = []  # offsets of the statx results of the mounts that may be mounted on
        self.targets: list[tuple[str, int]] = []  # declared targets, with the offset of their statx result

    def is_outside_root(self) -> bool:
        """Whether the working directory turned out to be outside the root (CVE-2024-21626)."""
        return self.memory.bytes[self.cwd : self.cwd + 1] != b"/"  # "(unreachable)/…"

    def failure(self) -> Failure | None:
        """Why a child that has ended failed; None if none of its calls did."""
        position = self.memory.failed()
        if position is None:
            return None
        step, path = self.steps[position]
        number = -self.memory.result(position)
        if position == self.candidates.stop:
            refused = any(self.memory.result(each) == -EACCES for each in self.candidates)
            number = EACCES if refused else ENOENT
        if number <= 0:
            return step, 0, path, f"unexpected result {-number}"
        return step, number, path, os.strerror(number)


def for_server(guest: Guest) -> ChildProgram:
    """An empty program with enough memory for the first process of a server."""
    hidden = (*guest["masks"], *guest["read_only_paths"])
    targets = [guest["cwd"], *(entry["target"] for entry in guest["mounts"])]
    calls = 6 * len(hidden) + sum(28 + 6 * target.count("/") for target in targets)
    texts = sum(4 * len(path) + 64 for path in hidden)
    for target in targets:
        texts += (4 * len(target) + 64) * (3 + 2 * target.count("/")) + 2 * 264
    return _sized(guest, guest["cgroup"]["attach"], calls, texts)


def for_command(enter: Enter) -> ChildProgram:
    """An empty program with enough memory for a command that joins a server."""
    return _sized(enter, enter["cgroup"]["attach"], 0, 0)


def _sized(process: Process, groups: list[str], calls: int, texts: int) -> ChildProgram:
    calls += 250 + len(process["rlimits"]) + 3 * len(groups) + 2 * process["env"].get("PATH", "").count(":")
    texts += 24576 + 4 * HOME_SIZE + len(process.get("seccomp") or b"")
    for text in (*process["argv"], *process["env"], *process["env"].values(), *groups):
        texts += 4 * len(text) + 64
    return ChildProgram(obtain(calls * SIZE, texts))


def ask_for_path(p: Program, number: int) -> None:
    """Ask for a path to be created that leads through a dangling link: the one of this number in `absent`."""
    question = PATH + number.to_bytes(2, "little")
    p.call("write", CHANNEL, question, len(question), want=len(question))
    p.call("read", CHANNEL, bytes(1), 1, want=1)


_parts: dict[object, Program] = {}


def add_part(p: Program, key: object, write: Callable[[Program], None]) -> None:
    """Add calls that many servers share: `write` runs once per key, while there is room for it."""
    if key in _parts:
        p.add(_parts[key])
    elif CONSTANTS.size - CONSTANTS.cursor > 65536:
        kept = _parts[key] = Program(CONSTANTS)
        write(kept)
        p.add(kept)
    else:
        write(p)


def how(flags: int, resolve: int) -> int:
    """The address of a struct open_how."""
    return CONSTANTS.text(pack("3Q", flags | os.O_CLOEXEC, 0, resolve))


EMPTY = CONSTANTS.text(b"")

# A path inside the root, whatever symbolic links the image has; the same, but a link at its end itself; one
# name that is not a link; such a directory.
ANYWHERE = how(os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
ON_LINK = how(os.O_PATH | os.O_NOFOLLOW, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
PLAIN = how(os.O_PATH | os.O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
PLAIN_DIRECTORY = how(os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
