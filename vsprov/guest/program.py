"""Writing lists of system calls for `machine`."""

from __future__ import annotations

import os
from struct import pack

from .machine import CALL, SIZE, Memory
from .sys_calls import AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH

TYPE_CHECKING = False  # importing typing would double the heap every child copies
if TYPE_CHECKING:
    from collections.abc import Iterable

    Argument = int | bytes | None

# On x86_64, and on the processors that came later.
_NUMBERS = {
    "capset": (126, 91), "chdir": (80, 49), "close": (3, 57), "dup3": (292, 24), "execve": (59, 221),
    "execveat": (322, 281), "fchdir": (81, 50), "getcwd": (79, 17), "ioctl": (16, 29), "mkdirat": (258, 34),
    "mount": (165, 40), "openat": (257, 56), "pivot_root": (155, 41), "prctl": (157, 167),
    "prlimit64": (302, 261), "read": (0, 63), "recvmsg": (47, 212), "rt_sigprocmask": (14, 135),
    "setgroups": (116, 159), "sethostname": (170, 161), "setns": (308, 268), "setresgid": (119, 149),
    "setresuid": (117, 147), "setsid": (112, 157), "socket": (41, 198), "statx": (332, 291),
    "symlinkat": (266, 36),
    "umask": (95, 166), "umount2": (166, 39), "unshare": (272, 97), "write": (1, 64),
}  # fmt: skip
NUMBERS = {
    **{name: pair[os.uname().machine != "x86_64"] for name, pair in _NUMBERS.items()},
    # Calls of today have the same number everywhere.
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "close_range": 436,
    "openat2": 437, "faccessat2": 439, "mount_setattr": 442,
}  # fmt: skip
CONSTANTS = Memory(1 << 20, 0)


class Program:
    """A list of calls being written, and of each what it is done for.

    `step` says what the calls that follow are part of. Distances count calls: 1 is the next one.
    """

    __slots__ = ("calls", "memory", "step", "told")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.calls: list[bytes] = []
        self.told: list[tuple[str, str | None]] = []
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
        """Add a call; bytes become the address of such a text, None a null pointer.

        `want`: the one result that is right; `skip`: the distance to the next call; `on`: up to three
        errnos, and the distance to the next call after each; `path`: what to name when it fails.
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
        self.told.append((self.step, path))

    def skip_to_end(self, position: int) -> None:
        """Make the call at this position, when it succeeds, skip all that have been written after it."""
        words = list(CALL.unpack(self.calls[position]))
        words[9] = (len(self.calls) - position) * SIZE
        self.calls[position] = CALL.pack(*words)

    def add(self, part: Program) -> None:
        """Add all calls of another."""
        self.calls += part.calls
        self.told += part.told

    def finish(self) -> None:
        """Put the list into the memory."""
        self.memory.load(b"".join(self.calls))

    # Calls whose arguments are mostly the same.

    def open_inside(
        self,
        fd: int,
        path: bytes,
        how: int,
        on: Iterable[tuple[int, int]] = (),
        skip: int = 1,
        base: int = AT_FDCWD,
    ) -> None:
        """openat2(2) with rules made by `how()`; the fd must come out as foreseen."""
        self.call("openat2", base, path, how, 24, want=fd, on=on, skip=skip, path=os.fsdecode(path))

    def write_file(self, fd: int, path: str, content: bytes) -> None:
        """Open a file, as the foreseen fd, write it and close it."""
        flags = os.O_WRONLY | os.O_CLOEXEC
        self.call("openat", AT_FDCWD, os.fsencode(path), flags, 0, want=fd, path=path)
        self.call("write", fd, content, len(content), want=len(content), path=path)
        self.call("close", fd)

    def mount(self, kind: bytes, target: bytes, flags: int, options: bytes | None = None) -> None:
        """mount(2) of a new file system."""
        self.call("mount", kind, target, kind, flags, options, path=os.fsdecode(target))

    def move_mount(self, tree: int, place: int) -> None:
        """Attach the mount of one fd to what another stands for."""
        self.call("move_mount", tree, EMPTY, place, EMPTY, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def how(flags: int, resolve: int) -> int:
    """The address of a struct open_how."""
    return CONSTANTS.text(pack("3Q", flags | os.O_CLOEXEC, 0, resolve))


EMPTY = CONSTANTS.text(b"")
