"""Check the kernel features and programs that vsprov depends on.

Features are tested by using them where that is cheap. Probes only create detached mounts, unnamed files and
processes with namespaces of their own, none of which outlives the probe.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from vsprov.engine.doctor.file_systems import file_systems
from vsprov.engine.doctor.finding import Finding
from vsprov.engine.doctor.limits import knobs, limits
from vsprov.engine.doctor.networks import networks
from vsprov.engine.doctor.privileges import privileges
from vsprov.engine.doctor.programs import programs
from vsprov.engine.doctor.servers import consoles, id_ranges, keeper
from vsprov.engine.doctor.system_calls import system_calls
from vsprov.engine.doctor.systems import inside, systems
from vsprov.engine.look import machine as machines
from vsprov.errors import HostError
from vsprov.kernel import cgroup
from vsprov.store.instance import Instance

# The probes that need no control groups, the most important first.
PROBES: tuple[Callable[[Instance], Iterator[Finding]], ...] = (
    privileges,
    system_calls,
    file_systems,
    inside,
)


def examine(instance: Instance) -> list[Finding]:
    """All features, the most important first."""
    if not os.path.exists("/proc/self/mountinfo"):
        return [Finding("/proc", "missing", "not mounted", "mount -t proc proc /proc")]
    findings = [finding for probe in PROBES for finding in probe(instance)]
    try:
        hierarchies = cgroup.find()
    except HostError as error:
        return [*findings, Finding("cgroup2", "missing", str(error), error.hint), *programs()]
    machine = machines.look(hierarchies, (), instance.name)
    return [
        *findings,
        *id_ranges(instance, hierarchies, machine),
        *limits(hierarchies, machine),
        *keeper(instance),
        *consoles(instance, hierarchies, machine),
        *networks(instance),
        *systems(machine),
        *programs(),
        *knobs(machine),
    ]
