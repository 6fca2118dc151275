"""The messages between vsprov and the keeper, over a SOCK_SEQPACKET socket: marshalled dicts, one a packet.

The keeper begins with `Hello`. `Keep` has no answer; its descriptors come with it, by SCM_RIGHTS. `Settle` is
answered by `Settled` once what servers wrote before is in their logs, and the exits of those that have ended
are recorded. All other messages before it have then been handled.
"""

from __future__ import annotations

from marshal import dumps as encode
from marshal import loads as decode

__all__ = ["FORMAT", "LARGEST", "decode", "encode"]

FORMAT = 1  # of these messages; a client replaces a keeper that has another
LARGEST = 1 << 17  # bytes of a message

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from typing import Literal, TypedDict

    class Hello(TypedDict):
        event: Literal["hello"]
        format: int
        pid: int

    class Keep(TypedDict):
        """Drain a server's console and record its exit.

        Descriptors: its directory, its home group, a pidfd of its init, and if the memory controller is
        there the file that counts OOM kills (memory.events, or memory.oom_control of cgroup v1).
        """

        cmd: Literal["keep"]
        name: str
        pid: int
        start: int  # field 22 of proc_pid_stat(5)

    class Settle(TypedDict):
        cmd: Literal["settle"]
        name: str | None  # the server it is about; None for all

    class Settled(TypedDict):
        """`kept` are the servers that are kept now, `problems` one line for each log that is not written."""

        event: Literal["settled"]
        kept: list[str]
        problems: list[str]
