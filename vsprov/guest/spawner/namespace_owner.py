"""User namespaces that belong to the root of their guest, so that the kernel charges the guest.

What is counted for each user is charged to the owners of the user namespaces above, too (namespaces(7),
/proc/sys/user). If that were our user, one server could use up what all servers and the host's root may have.
"""

from __future__ import annotations

import os
import resource

from ..sys_calls import PR_SET_DUMPABLE, prctl, set_file_user
from ..syscall_list import start

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..syscall_list import Memory

# Our soft limits of these are the bounds of all users of a user namespace together; the limits of the request
# are those of each user.
BOUNDS = (
    resource.RLIMIT_NPROC,
    resource.RLIMIT_MSGQUEUE,
    resource.RLIMIT_SIGPENDING,
    resource.RLIMIT_MEMLOCK,
)


def raise_bounds() -> None:
    """Raise our soft limits of BOUNDS as far as we may; to exceed a hard limit needs CAP_SYS_RESOURCE."""
    for limit in BOUNDS:
        try:
            resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except ValueError:  # what Python makes of EPERM
            hard = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (hard, hard))


def clone_as(base: int, flags: int, cgroup: int, memory: Memory, in_python: bool, own: bool) -> int:
    """As `start`, in a user namespace that host id `base` owns; 0 for none.

    The owner is the effective user. The saved one has to be the same for the child to join cgroups v1, and
    the one for file access has to be ours for it to open their files.
    """
    if not base:
        return start(flags, cgroup, memory, in_python, own)
    os.setresuid(-1, base, base)
    try:
        set_file_user(0)
        return start(flags, cgroup, memory, in_python, own)
    finally:
        os.setresuid(-1, 0, 0)
        prctl(PR_SET_DUMPABLE, 0)  # setresuid sets it where fs.suid_dumpable is 1
