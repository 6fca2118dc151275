"""Children of the keeper and of what it runs, and what the host may not have enough of."""

from __future__ import annotations

import os
from errno import EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM
from signal import SIGKILL

# The host has not enough descriptors, processes or memory, which says nothing about a server, and may pass.
SHORTAGES = (EMFILE, ENFILE, EAGAIN, ENOMEM, ENOBUFS)


def fork() -> tuple[int, int]:
    """Fork: pid and pidfd of the child, which has to end by os._exit and sees (0, -1). OSError (EAGAIN,
    ENOMEM, EMFILE, ENFILE) if there is no child.
    """
    pid = os.fork()
    if pid == 0:
        return 0, -1
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        raise
