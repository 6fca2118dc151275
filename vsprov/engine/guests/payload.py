"""The control group that a guest runs in: `payload`, below the home group that carries the limits.

On cgroup2 `payload` has the same limits: it is what a guest sees as the root of its cgroup namespace, and
runtimes (OpenJDK 17, Go, node) read the limits of their own group only, not those of the groups above.
"""

from __future__ import annotations

import os

from vsprov.kernel import cgroup
from vsprov.model.limits.knobs import KNOBS

# What the guest's root may write to, so that it can make groups of its own; cgroup-v2.rst, "Delegation
# Containment".
DELEGATED = ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads")
# The groups a guest makes use memory of the host that no limit counts, and the host can reach them only by
# paths of at most 4096 bytes (PATH_MAX). The bounds are on the home group, which the guest cannot write to.
BOUNDS = {"cgroup.max.depth": 12, "cgroup.max.descendants": 1000}
UNREAD = ("cpuset", "io")  # cpuset.cpus.effective of a group shows what is set above it


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
    mirrored = _mirrored(home)
    if mirrored:
        cgroup.write(f"{home}/cgroup.subtree_control", " ".join(f"+{name}" for name in mirrored))
    os.mkdir(payload, 0o755)
    for knob in KNOBS:
        if knob.v2 and knob.controller in mirrored:
            for file in knob.v2.files:
                if limit := cgroup.read(f"{home}/{file}"):
                    mirror(home, file, limit)
    for name in DELEGATED:
        os.chown(f"{payload}{name}", base, base)
    return payload


def mirror(home: str, file: str, limit: str) -> None:
    """Give the payload of a home group a limit that the home group has, if it has the controller."""
    path = f"{home}/payload/{file}"
    if os.path.exists(path) and cgroup.read(path) != limit:
        cgroup.write(path, limit)


def _mirrored(home: str) -> list[str]:
    """The controllers that `home` has on cgroup2, without those that runtimes find no limits in."""
    return [name for name in (cgroup.read(f"{home}/cgroup.controllers") or "").split() if name not in UNREAD]
