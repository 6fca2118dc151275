"""Control groups of v1 and v2 that refuse what those of the kernel refuse.

v1's nesting of quotas and CPUs, memsw below memory, a burst above its quota, a process in a group without
CPUs, files of controllers that were not passed down, a guest without its payload group. What was measured on
Linux 6.18 is cited where it is checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.unit.simulate_networks import Refused
from vsprov.model.limits.encodings import Side, normal
from vsprov.model.limits.knobs import KNOBS
from vsprov.model.values.units import MAX, expand_ids
from vsprov.plan.compare import applied
from vsprov.plan.observed import Machine, ObservedGroup

HOME = ""  # the name of the cgroup2 hierarchy


@dataclass
class Guest:
    """A server's init; `where` is the group it is in, by hierarchy; it waits at its gate until `released`.
    `kept` is what the keeper knows of its spec, `ready` what its readiness probe says.
    """

    pid: int
    image: str
    hostname: str
    limits: dict[str, tuple[Any, Any]]
    where: dict[str, str]
    released: bool = False
    ready: bool = True
    kept: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Groups:
    """The groups of a machine, and the guests in them."""

    machine: Machine
    files: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)  # by (hierarchy, group)
    owners: dict[tuple[str, str], str] = field(default_factory=dict)  # "role owner"
    marks: dict[str, str] = field(default_factory=dict)  # the record on a home
    protected: frozenset[str] = frozenset()  # groups of pools
    subtree: dict[str, set[str]] = field(default_factory=dict)
    payloads: dict[str, int] = field(default_factory=dict)
    guests: dict[str, Guest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for hierarchy in self.hierarchies():
            self.files.setdefault((hierarchy, ""), {})
        self.subtree.setdefault("", set())

    def sides(self, hierarchy: str) -> Iterable[tuple[str, Side]]:
        """(controller by its v2 name, side) of the knobs in a hierarchy."""
        for knob in KNOBS:
            side = self.machine.side(knob)
            if (
                side
                and (HOME if self.machine.versions[knob.controller] == 2 else side.controller) == hierarchy
            ):
                yield knob.controller, side

    def hierarchies(self) -> list[str]:
        versions = self.machine.versions
        return [HOME, *("blkio" if name == "io" else name for name in versions if versions[name] == 1)]

    def fresh_files(self, hierarchy: str, group: str) -> dict[str, str]:
        passed = self.subtree[group.rpartition("/")[0]] if hierarchy == HOME else None
        out: dict[str, str] = {}
        for controller, side in self.sides(hierarchy):
            if passed is None or controller in passed:
                fresh = side.encode(None, {}, self.machine.host)
                out |= fresh if side.new_group is None else dict.fromkeys(side.files, side.new_group)
        return out

    def children(self, hierarchy: str, group: str) -> list[str]:
        return [
            path
            for name, path in self.files
            if name == hierarchy and path.rpartition("/")[0] == group and path
        ]

    def inside(self, hierarchy: str, group: str) -> list[str]:
        """Servers whose processes are in a group or below it."""
        return [
            name
            for name, guest in self.guests.items()
            if f"{guest.where[hierarchy]}/".startswith(f"{group}/")
        ]

    def write(self, hierarchy: str, group: str, file: str, text: str) -> None:
        """One write(2) to a file of a group."""
        files = self.files.get((hierarchy, group))
        if files is None or file not in files:
            raise Refused(f"no {file} in {group}")
        side = next(side for _, side in self.sides(hierarchy) if file in side.files)
        before = files[file]
        if side.reset:
            number, _, rest = text.partition(" ")
            lines = {line.split(" ", 1)[0]: line for line in before.splitlines()}
            lines.pop(number, None)
            if rest != side.reset:
                lines[number] = text
            text = "\n".join(lines[key] for key in lines)
        files[file] = normal(file, text)
        if why := self.wrong(hierarchy, group):
            files[file] = before
            raise Refused(f"{group}/{file} = {text} (was {before}): {why}")

    def wrong(self, hierarchy: str, group: str) -> str:
        """Why a group's files cannot be as they are; "" when they can."""
        files = self.files[hierarchy, group]
        if "memory.memsw.limit_in_bytes" in files and number(files["memory.limit_in_bytes"]) > number(
            files["memory.memsw.limit_in_bytes"]
        ):
            return "memory above memsw"
        for quota, burst in (("cpu.cfs_quota_us", "cpu.cfs_burst_us"), ("cpu.max", "cpu.max.burst")):
            if burst in files and number(files[burst]) > number(files[quota]):
                return "burst above quota"
        above, below = group.rpartition("/")[0], self.children(hierarchy, group)
        for around, inner in ((above, group), *((group, child) for child in below)):
            if why := self.outgrows(hierarchy, around, inner):
                return why
        if (
            "cpuset.cpus" in files
            and hierarchy == "cpuset"
            and "" in (files["cpuset.cpus"], files["cpuset.mems"])
        ):
            if any(guest.where[hierarchy] == group for guest in self.guests.values()):
                return "processes are left without CPUs or memory"
        return ""

    def outgrows(self, hierarchy: str, around: str, inner: str) -> str:
        """v1: EINVAL for a quota above the parent's, EACCES and EBUSY for CPUs beyond it."""
        outer, files = self.files.get((hierarchy, around)), self.files[hierarchy, inner]
        if hierarchy == HOME or outer is None or not inner:
            return ""
        if hierarchy == "cpu":
            ratio, most = (share(files), share(outer)) if outer else (0.0, 0.0)
            return f"quota beyond {around}" if outer and most < ratio < float("inf") else ""
        if hierarchy == "cpuset":
            host = self.machine.host
            for file, all_of_it in (("cpuset.cpus", host.cpus), ("cpuset.mems", host.mems)):
                if not expand_ids(files[file]) <= expand_ids(outer[file] if around else all_of_it):
                    return f"{file} beyond {around}"
        return ""

    def enter(self, name: str, hierarchy: str, group: str) -> None:
        files = self.files.get((hierarchy, group))
        if files is None:
            raise Refused(f"no {group} in {hierarchy}")
        if hierarchy == "cpuset" and "" in (files.get("cpuset.cpus", "0"), files.get("cpuset.mems", "0")):
            raise Refused(f"{group} has no CPUs or memory to attach {name} to (ENOSPC)")
        self.guests[name].where[hierarchy] = group

    def group(self, path: str) -> ObservedGroup:
        texts: dict[str, str] = {}
        mark = self.owners.get((HOME, path))
        role, _, owner = (mark or "").partition(" ")
        controllers = [name for name in self.hierarchies() if (name, path) in self.files]
        for name in controllers:
            texts |= self.files[name, path]
            owner = owner if self.owners.get((name, path)) == mark else ""
        text = applied.unseal(self.marks.get(path), None) if role == "pool" else None
        return ObservedGroup(
            path,
            owner or None,
            texts,
            frozenset(controllers),
            frozenset(self.subtree[path]),
            json.loads(text) if text else None,
            path in self.protected,
        )

    def hierarchy(self, controller: str) -> str:
        v2 = "io" if controller == "blkio" else controller
        return HOME if self.machine.versions[v2] == 2 else controller

    def need_group(self, group: str) -> None:
        if (HOME, group) not in self.files:
            raise Refused(f"no cgroup {group}")

    def remove_group(self, group: str) -> None:
        if self.inside(HOME, group) or self.children(HOME, group):
            raise Refused(f"cgroup {group} is in use")
        self.forget_group(group)

    def forget_group(self, group: str) -> None:
        for key in [key for key in self.files if f"{key[1]}/".startswith(f"{group}/")]:
            del self.files[key]
            self.owners.pop(key, None)
        for kept in (self.marks, self.subtree, self.payloads):
            for path in [path for path in kept if f"{path}/".startswith(f"{group}/")]:
                del kept[path]


def number(text: str) -> float:
    word = text.split(" ", 1)[0]
    return float("inf") if word in (MAX, "-1") else float(word)


def share(files: Mapping[str, str]) -> float:
    """CPUs that a v1 group may use."""
    return number(files["cpu.cfs_quota_us"]) / int(files["cpu.cfs_period_us"])
