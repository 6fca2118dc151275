"""Creating a path of a guest that leads through a dangling link, as a program inside would: within its root.

The list of system calls that a child runs cannot read links. A process of ours does it instead: in the
guest's user and mount namespaces, whose root is the guest's, so that no link leads out (CVE-2024-45310).
"""

from __future__ import annotations

import os

from ..sys_calls import CLONE_NEWNS, CLONE_NEWUSER, PR_SET_DUMPABLE, prctl, setns


def create_inside(pid: int, path: str, directory: bool) -> None:
    """Create a directory or an empty file, and what leads to it, in the root of a process that waits."""
    helper = os.fork()
    if helper == 0:
        code = 255
        try:
            _enter(pid)
            _create(path, directory)
            code = 0
        except OSError as error:
            code = error.errno or code
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    if code:
        raise OSError(code, os.strerror(code) if 0 < code < 255 else "its creation failed", path)


def _enter(pid: int) -> None:
    """Become root of the process's namespaces."""
    flags = CLONE_NEWNS
    if os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user"):
        flags |= CLONE_NEWUSER
    setns(os.pidfd_open(pid), flags)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    prctl(PR_SET_DUMPABLE, 0)  # setresuid may have set it


def _create(path: str, directory: bool) -> None:
    real = os.path.realpath(path)
    os.makedirs(real if directory else os.path.dirname(real), 0o755, exist_ok=True)
    if not directory:
        os.close(os.open(real, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644))
