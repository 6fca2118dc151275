"""What of the limits of servers this host can enforce: cgroups, controllers, knobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from vsprov.engine.doctor.finding import Finding
from vsprov.kernel import cgroup
from vsprov.kernel.cgroup import V1_NAMES, Hierarchies
from vsprov.model.limits.knobs import BY_PATH, KNOBS
from vsprov.plan.observed import Machine

SWAP = BY_PATH["memory.swapMax"]


def limits(hierarchies: Hierarchies, machine: Machine) -> Iterator[Finding]:
    """The cgroup hierarchies, their controllers and huge pages."""
    yield _cgroup2(hierarchies)
    yield _cgroup_kill(hierarchies)
    yield from _controllers(machine)
    yield _swap(machine)
    yield _hugetlb()


def _cgroup2(hierarchies: Hierarchies) -> Finding:
    layout = "hybrid with v1" if hierarchies.v1 else "pure"
    return Finding("cgroup2", "ok", f"{hierarchies.cgroup2}, {layout}")


def _cgroup_kill(hierarchies: Hierarchies) -> Finding:
    # The root group does not have this file. Check another group, or else the version of the kernel.
    for name in cgroup.children(hierarchies.cgroup2):
        available = os.path.exists(f"{hierarchies.cgroup2}/{name}/cgroup.kill")
        break
    else:
        available = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (5, 14)
    if available:
        return Finding("cgroup.kill", "ok", "")
    return Finding(
        "cgroup.kill", "missing", "this kernel is older than 5.14", "servers cannot be killed as a whole"
    )


def _controllers(machine: Machine) -> Iterator[Finding]:
    for name in V1_NAMES:
        version = machine.versions.get(name)
        if version:
            yield Finding(f"controller {name}", "ok", f"cgroup v{version}")
        else:
            lost = ", ".join(knob.path for knob in KNOBS if knob.controller == name)
            yield Finding(f"controller {name}", "degraded", "not available", f"no {lost}")


def _swap(machine: Machine) -> Finding:
    if lack := machine.lack(SWAP):
        return Finding("swap accounting", "degraded", lack, f"no {SWAP.path}; boot with swapaccount=1")
    return Finding("swap accounting", "ok", "")


def _hugetlb() -> Finding:
    with suppress(OSError):
        sizes = sorted(name.removeprefix("hugepages-") for name in os.listdir("/sys/kernel/mm/hugepages"))
        if sizes:
            return Finding("huge pages", "ok", ", ".join(sizes))
    return Finding("huge pages", "degraded", "none", "no hugepages")


def knobs(machine: Machine) -> Iterator[Finding]:
    """The knobs that this host does not support although it has their controller."""
    for knob in KNOBS:
        lack = machine.lack(knob)
        if lack and knob.controller in machine.versions and knob is not SWAP:
            yield Finding(f"knob {knob.path}", "degraded", "not supported", lack)
