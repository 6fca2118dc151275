"""The messages between vsprov and the keeper, over a SOCK_SEQPACKET socket: marshalled dicts, one a packet.

The keeper begins with `Hello`. `Keep` has no answer; its descriptors come with it, by SCM_RIGHTS. What can be
long comes as a sealed memfd, because a packet has a limit, and so do longer answers. `Settle` is answered by
`Settled` once what servers wrote before is in their logs, and the exits of those that have ended are
recorded. All other messages before it have then been handled.
"""

from __future__ import annotations

from marshal import dumps as encode
from marshal import loads as decode

__all__ = ["DUE", "FIFO", "FORMAT", "GAVE_UP", "LARGEST", "decode", "encode"]

FORMAT = 6  # of these messages; a client replaces a keeper that has another
LARGEST = 1 << 17  # bytes of a message
DUE, GAVE_UP = "due", "gave-up"  # what is decided about a restart, see `restarts`
FIFO = "console"  # that a server writes to, in its directory

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from typing import Literal, TypedDict

    class Hello(TypedDict):
        event: Literal["hello"]
        format: int
        pid: int

    class Keep(TypedDict):
        """Keep a server from now on; one that is kept already is kept by its new spec.

        `fds` are the names of the descriptors: `folder`, its directory; `home`, its home group; `pidfd`, of
        its init; `spec`, a memfd with the marshalled part of its spec that the keeper works by
        (`model.fields.kept`). `counters`, if the memory controller is there: the file that counts OOM kills
        (memory.events, or memory.oom_control of cgroup v1). `entry`, if it has a probe that is a command: a
        memfd with the marshalled request to join it (`guest.wire.Enter`). `notify`, if it reports itself that
        it is ready: the socket for that.
        """

        cmd: Literal["keep"]
        name: str
        pid: int
        start: int  # field 22 of proc_pid_stat(5)
        fds: list[str]

    class Ended(TypedDict):
        """A server whose init has ended while there was no keeper, by itself. `status` is its wait status,
        None if nobody knows it.

        Descriptors: its directory, its home group, and the memfd as with `Keep`.
        """

        cmd: Literal["ended"]
        name: str
        pid: int
        start: int
        status: int | None

    class Group(TypedDict):
        """Run other programs in the group whose cgroup.procs comes with this."""

        cmd: Literal["group"]

    class Allow(TypedDict):
        """From `keeper act`, which is ended when it takes too long: it may take so many seconds more, because
        it waits for servers to stop and for hooks.
        """

        cmd: Literal["allow"]
        seconds: float

    class Ask(TypedDict):
        """Answered by `Status`."""

        cmd: Literal["status"]

    class Status(TypedDict):
        """`acting` is the pid of a running `keeper act`, 0 for none, and `acts` how many there were.
        `restarts` are the Unix times of those that are due, by server, and `snapshots` those of the next ones
        by schedule.
        """

        event: Literal["status"]
        pid: int
        since: float
        kept: list[str]
        acting: int
        acts: int
        restarts: dict[str, float]
        snapshots: dict[str, float]
        problems: list[str]

    class Settle(TypedDict):
        cmd: Literal["settle"]
        name: str | None  # the server it is about; None for all

    class Settled(TypedDict):
        """`kept` are the servers that are kept now, `problems` one line for each log that is not written."""

        event: Literal["settled"]
        kept: list[str]
        problems: list[str]

    Request = Keep | Settle | Ended | Group | Allow | Ask
