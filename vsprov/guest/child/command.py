"""The program of a command that joins a running server, from clone to execve.

Fds: the child finds its end of the channel as 3, a pidfd of the server's first process as 4, and from 5 on
its standard input, output and error, or if it gets a terminal that alone.
"""

from __future__ import annotations

from struct import pack

from ..sys_calls import CLONE_NEWCGROUP, LARGEST_FD, PR_SET_DUMPABLE
from .confinement import write_confinement, write_execution
from .program import READY, ChildProgram

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..wire import Enter
    from .confinement import Ids

PIDFD, FIRST_STREAM = 4, 5
LAST_STREAM = FIRST_STREAM + 2
TIOCSCTTY = 0x540E


def write_command(
    p: ChildProgram, enter: Enter, namespaces: int, raised: list[tuple[int, int, int]], ids: Ids
) -> None:
    """Everything that a command does which joins a running server.

    `namespaces`: the CLONE_ flags of those to join; `raised`: limits to set first, while it may raise hard
    ones.
    """
    streams = [FIRST_STREAM] * 3 if enter["tty"] else range(FIRST_STREAM, LAST_STREAM + 1)
    p.call("setsid")
    p.step = "terminal" if enter["tty"] else "streams"
    for number, stream in enumerate(streams):
        p.call("dup3", stream, number, 0)
    if enter["tty"]:
        p.call("ioctl", 0, TIOCSCTTY, 0)
    free = FIRST_STREAM
    p.call("close_range", free, LARGEST_FD, 0)
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
    if enter["own_root"]:
        # In the server's cgroup namespace our group would be "/../exec", which runtimes cannot find below
        # /sys/fs/cgroup. In one of our own it is "/", where they find the server's limits.
        p.call("unshare", CLONE_NEWCGROUP)
    p.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    p.call("setgroups", 0, None)
    p.call("chdir", b"/")
    write_confinement(p, enter, free, ids)
    p.step = "start"
    p.ask(READY)
    write_execution(p, enter)
