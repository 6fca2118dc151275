"""The control group that a guest runs in: `payload`, below the home group that carries the limits."""

from __future__ import annotations

import os

from vsprov.kernel import cgroup

# What the guest's root may write to, so that it can make groups of its own; cgroup-v2.rst, "Delegation
# Containment".
DELEGATED = ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads")
# The groups a guest makes use memory of the host that no limit counts, and the host can reach them only by
# paths of at most 4096 bytes (PATH_MAX). The bounds are on the home group, which the guest cannot write to.
BOUNDS = {"cgroup.max.depth": 12, "cgroup.max.descendants": 1000}


def make(home: str, base: int) -> str:
    """Create the payload group in the cgroup2 directory `home`, owned by host id `base`; return its path.

    An existing payload is replaced, and so is the group of `exec` sessions: cgroup.kill also kills whatever
    is cloned into the group later (measured on 6.18: the kernel compares the group's count of kills with that
    of the cloning process's own group).
    """
    payload = f"{home}/payload"
    for group in (payload, f"{home}/exec"):
        cgroup.remove(group)
    for file, most in BOUNDS.items():
        cgroup.write(f"{home}/{file}", str(most))
    os.mkdir(payload, 0o755)
    for name in DELEGATED:
        os.chown(f"{payload}{name}", base, base)
    return payload
