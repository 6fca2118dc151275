"""The program of a command that joins a running server, from clone to execve.

Fds: the child finds its end of the channel as 3, a pidfd of the server's first process as 4, and if it gets a
terminal that as 5.
"""

from __future__ import annotations

from struct import pack

from ..sys_calls import LARGEST_FD, PR_SET_DUMPABLE
from .confinement import write_confinement, write_execution
from .program import READY, ChildProgram

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..wire import Enter
    from .confinement import Ids

PIDFD, TERMINAL = 4, 5
TIOCSCTTY = 0x540E


def write_command(
    p: ChildProgram, enter: Enter, namespaces: int, raised: list[tuple[int, int, int]], ids: Ids
) -> None:
    """Everything that a command does which joins a running server.

    `namespaces`: the CLONE_ flags of those to join; `raised`: limits to set first, while it may raise hard
    ones.
    """
    free = TERMINAL + 1 if enter["tty"] else TERMINAL
    p.call("close_range", free, LARGEST_FD, 0)
    p.call("setsid")
    for group in enter["cgroup"]["attach"]:
        p.step = f"cgroup {group}"
        p.write_file(free, f"{group}/cgroup.procs", b"0")
    for number, soft, hard in raised:
        p.step = f"rlimit {number}"
        p.call("prlimit64", 0, number, pack("2q", soft, hard), None)
    p.step = "join"
    p.call("setns", PIDFD, namespaces)
    p.call("setresgid", 0, 0, 0)
    p.call("setresuid", 0, 0, 0)
    p.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    p.call("setgroups", 0, None)
    p.call("chdir", b"/")
    if enter["tty"]:
        p.step = "terminal"
        for number in (0, 1, 2):
            p.call("dup3", TERMINAL, number, 0)
        p.call("ioctl", 0, TIOCSCTTY, 0)
    write_confinement(p, enter, free, ids)
    p.step = "start"
    p.ask(READY)
    write_execution(p, enter)
