"""Observe the properties of the host that planning needs: CPUs, memory, controllers, resource limits."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from typing import Any

from vsprov.engine.look import devices
from vsprov.kernel import cgroup, proc, process
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model.kinds.volume import Volume
from vsprov.model.limits.encodings import Host
from vsprov.model.limits.knobs import KNOBS, RLIMITS
from vsprov.model.objects import Object
from vsprov.model.values.names import CAPABILITIES
from vsprov.model.values.units import MAX
from vsprov.plan.observed import Machine
from vsprov.plan.ranges import Ranges


def look(
    hierarchies: Hierarchies,
    objects: Iterable[Object] = (),
    parent: str = "",
    ranges: Ranges | None = None,
    root: str = "/",
) -> Machine:
    """The machine, with the block devices of `objects`; `parent` is the parent group of all servers, `ranges`
    are the ids that they may have, `root` is the state root.
    """
    versions = hierarchies.versions()
    cpus = _cpuset(hierarchies, "cpus") or "0"
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) * 1024
    own = {knob.rlimit: _own_limit(knob.rlimit) for knob in RLIMITS}
    bounded = not proc.capabilities() >> CAPABILITIES.index("SYS_RESOURCE") & 1
    return Machine(
        Host(
            page=os.sysconf("SC_PAGE_SIZE"),
            cpus=cpus,
            mems=_cpuset(hierarchies, "mems") or "0",
            devices=devices.numbers(path for _, path in devices.named_by(objects)),
        ),
        versions,
        _missing(hierarchies, versions, parent),
        cpus=os.cpu_count() or 1,
        memory=memory,
        limits=_default_limits(own if bounded else {}),
        ceilings={name: hard for name, (_, hard) in own.items() if hard != MAX} if bounded else {},
        ranges=ranges or Ranges(),
        disks=_disks(objects, root),
    )


def _disks(objects: Iterable[Object], root: str) -> Mapping[str, str]:
    """`Machine.disks` for this state root, if any of the objects limits a disk."""
    for each in objects:
        limits = each.spec.limits() if isinstance(each.spec, Volume) else getattr(each.spec, "resources", ())
        if any(path.startswith("disk.") for path in limits):
            from vsprov.store.space import disks

            return disks.lacks(root)
    return {}


def _cpuset(hierarchies: Hierarchies, what: str) -> str:
    root = hierarchies.directory("cpuset", "")
    name = f"cpuset.{what}" if hierarchies.versions().get("cpuset") == 1 else f"cpuset.{what}.effective"
    online = "/sys/devices/system/cpu/online" if what == "cpus" else "/sys/devices/system/node/online"
    return cgroup.read(f"{root}/{name}") or cgroup.read(online) or ""


def _missing(hierarchies: Hierarchies, versions: Mapping[str, int], parent: str) -> frozenset[str]:
    """The controller files that this kernel does not have.

    The root of a v1 hierarchy has nearly all files of its children. The root of cgroup2 does not, so this
    checks a group that has the controller: `parent` or any other child of the root. Without such a group no
    file of the controller is reported as missing.
    """
    missing: set[str] = set()
    sizes = {name.removeprefix("hugepages-") for name in _listing("/sys/kernel/mm/hugepages")}
    for knob in KNOBS:
        version = versions.get(knob.controller)
        side = knob.side(version) if version else None
        if side is None:
            continue
        if knob.controller == "hugetlb":
            label = side.files[0].split(".")[1]
            kilobytes = int(label[:-2]) * {"KB": 1, "MB": 1024, "GB": 1024**2}[label[-2:]]
            if f"{kilobytes}kB" not in sizes:
                missing.update(side.files)
        elif version == 1 and knob.controller not in ("cpuset", "pids"):
            root = hierarchies.directory(side.controller, "")
            missing.update(file for file in side.files if not os.path.exists(f"{root}/{file}"))
        elif version == 2 and (sample := _sample(hierarchies, knob.controller, parent)):
            missing.update(file for file in side.files if not os.path.exists(f"{sample}/{file}"))
    return frozenset(missing)


def _sample(hierarchies: Hierarchies, controller: str, parent: str) -> str:
    root = hierarchies.cgroup2
    for group in (parent, *cgroup.children(root)):
        names = cgroup.read(f"{root}/{group}/cgroup.controllers") if group else None
        if names and controller in names.split():
            return f"{root}/{group}"
    return ""


def _listing(directory: str) -> list[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []


def _own_limit(name: str) -> tuple[Any, Any]:
    soft, hard = resource.getrlimit(process.LIMITS[name])
    return _limit(soft), _limit(hard)


def limits_of(pid: int) -> dict[str, tuple[Any, Any]]:
    """{name: (soft, hard)} of a process, "max" for no limit; {} if it does not exist."""
    return {name: (_limit(soft), _limit(hard)) for name, (soft, hard) in process.limits(pid).items()}


def _limit(number: int) -> Any:
    return MAX if number == resource.RLIM_INFINITY else number


def _default_limits(ceilings: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The limits of servers that set none, bounded by `ceilings`; never those of our caller."""
    out, of_init = {}, limits_of(1)
    for knob in RLIMITS:
        name = knob.rlimit
        soft, hard = knob.default or of_init.get(name, (MAX, MAX))
        ceiling = ceilings.get(name, (MAX, MAX))[1]
        hard = ceiling if hard == MAX else hard if ceiling == MAX else min(hard, ceiling)
        out[name] = (hard if soft == MAX else soft if hard == MAX else min(soft, hard), hard)
    return out
