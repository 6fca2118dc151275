"""The messages between vsprov and its two guest programs, `spawner` and `enter`.

A message is its length in 4 bytes, little-endian, and then a marshalled dict. vsprov writes requests, which
have a key `cmd`, and reads events, which have a key `event`. Paths are absolute; all text may hold arbitrary
bytes, as surrogates (os.fsencode).

`spawner` takes any number of `spawn` requests. For each it sends `ready` once the guest is complete and
waits at its gate, `running` when it has been released and has executed its command, and `exited` in the end;
or `failed`, after which nothing of the guest is left. `enter` takes one `enter` request, then any number of
`signal` ones, and sends `terminal` if one was asked for, `running` when the command has been executed, then
`exited` or `failed`. It does not use `id`, which is 0 there.
"""

from __future__ import annotations

from marshal import dumps, loads

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from typing import Any, Literal, NotRequired, TypedDict

    class Groups(TypedDict):
        """Control groups: a cgroup2 directory to be cloned into, and cgroup v1 directories to join."""

        payload: str
        attach: list[str]

    class Process(TypedDict):
        """A command and its confinement."""

        argv: list[str]  # argv[0] is searched for on env's PATH, in the server's root
        env: dict[str, str]
        home: bool  # whether HOME is set from /etc/passwd when env has none
        cwd: str
        user: str  # "USER[:GROUP]", names or numbers, by the server's own /etc/passwd and /etc/group
        umask: int
        no_new_privs: bool
        capabilities: list[int]  # numbers: the bounding set, and root's permitted and effective sets
        rlimits: list[tuple[int, int, int]]  # (RLIMIT_ number, soft, hard), -1 for no limit
        seccomp: NotRequired[bytes]  # a classic BPF filter, packed struct sock_filter
        cgroup: Groups

    class IdMap(TypedDict):
        """Ids 0 to `size` of the user namespace are the host's from `base` on."""

        base: int
        size: int

    class Root(TypedDict):
        """An overlay; without an upper directory it is read-only."""

        lower: list[str]  # topmost first
        upper: str | None
        work: str | None
        disk: str | None  # a detached mount that both are in, as a path of the client's descriptor in /proc
        read_only: bool
        mount_at: str  # any directory; all servers may have the same
        to_layer: bool  # whether the upper directory will become a layer that has to make sense by itself

    class MountFlags(TypedDict):
        target: str
        read_only: bool
        nosuid: bool
        nodev: bool

    class Bind(MountFlags):
        type: Literal["bind"]
        source: str  # links in it are followed: a path of the client's own descriptor in /proc
        tree: NotRequired[bool]  # the source is a detached mount, for this server alone
        recursive: bool
        idmap: bool  # ids in it are those of the host
        over_link: NotRequired[bool]  # a link at the target is replaced, not followed
        over_kernel: NotRequired[bool]  # the target is a file of /proc or /sys; before all other mounts
        owner: tuple[int, int] | None  # host uid and gid that are the guest's root; others are not mapped

    class Tmpfs(MountFlags):
        type: Literal["tmpfs"]
        size: int | None  # bytes; None for the kernel's default
        mode: int

    class File(MountFlags):
        type: Literal["file"]
        content: str

    Mount = Bind | Tmpfs | File

    class Hierarchy(TypedDict):
        """A cgroup v1 hierarchy; without a group of the server's own there, only its mount point shows."""

        controllers: list[str]  # all it has
        own: bool

    class Guest(Process):
        """A server, or a step of a build: everything its first process is made from."""

        hostname: str
        host_network: bool  # stay in the host's network namespace; then there is no /sys
        own_memory: bool  # copy the spawner's memory instead of sharing it until execve; see syscall_list
        id_map: IdMap | None
        root: Root
        mounts: list[Mount]  # in this order
        hierarchies: list[Hierarchy]  # of cgroup v1, to be mounted too
        systemd: bool  # the command is systemd, which decides by /sys/fs/cgroup how it uses control groups
        shm_size: int | None  # bytes; None for the kernel's default
        system: bool  # boots a whole system: see child/system.py
        masks: list[str]  # hidden, before the mounts are made
        read_only_paths: list[str]  # made read-only, before the mounts are made
        console: str  # the FIFO for its output
        reaper: str | None  # a static program of the host to run as its pid 1

    class Spawn(TypedDict):
        cmd: Literal["spawn"]
        id: int  # of the client's choice; the events carry it
        guest: Guest

    class Release(TypedDict):
        cmd: Literal["release"]
        id: int

    class Enter(Process):
        """Without a tty it comes with the command's standard input, output and error as SCM_RIGHTS."""

        cmd: Literal["enter"]
        pid: int  # the server's first process, and its start time from /proc/PID/stat
        start: int
        own_root: bool  # see its group as the root of all groups, instead of the server's
        tty: bool
        rows: int
        cols: int

    class Signal(TypedDict):
        cmd: Literal["signal"]
        number: int

    Request = Spawn | Release | Enter | Signal

    class Ready(TypedDict):
        event: Literal["ready"]
        id: int
        pid: int
        start: int
        unmapped: list[str]  # layers and sources on file systems that cannot be idmapped
        terminal: int  # the child's fd of the master of its console, open until it executes; -1 for none

    class Running(TypedDict):
        event: Literal["running"]
        id: int

    class Exited(TypedDict):
        """One of `code` and `signal`."""

        event: Literal["exited"]
        id: int
        code: NotRequired[int]
        signal: NotRequired[int]

    class Failed(TypedDict):
        """id 0: the guest program itself has failed, and ends."""

        event: Literal["failed"]
        id: int
        step: str
        errno: int  # 0 if it was no system call
        path: str | None
        message: str | None

    class Terminal(TypedDict):
        """Comes with the master of the pty as SCM_RIGHTS."""

        event: Literal["terminal"]
        id: int

    Event = Ready | Running | Exited | Failed | Terminal


def encode(message: Request | Event) -> bytes:
    """A request or event as the bytes to send."""
    plain: Any = message
    body = dumps(plain)
    return len(body).to_bytes(4, "little") + body


def decode(buffer: bytearray) -> list[Any]:
    """Remove the complete messages at the front of a buffer and return them, in order."""
    messages, start = [], 0
    while len(buffer) >= start + 4:
        end = start + 4 + int.from_bytes(buffer[start : start + 4], "little")
        if len(buffer) < end:
            break
        messages.append(loads(buffer[start + 4 : end]))
        start = end
    del buffer[:start]
    return messages
