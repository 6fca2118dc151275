"""What observation found: the machine, and every object of this instance in the kernel and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vsprov.model.encodings import Host, Side
from vsprov.model.knobs import KNOBS, Knob


@dataclass(frozen=True, slots=True)
class Machine:
    """The host as planning needs it.

    `versions` gives the cgroup version of each controller, by its v2 name; a controller the host lacks is
    absent. `missing` are controller files this kernel does not have. `limits` are the resource limits a
    server gets that sets none, {name: (soft, hard)}; `ceilings` the highest hard limits that may be set, {}
    with CAP_SYS_RESOURCE, without which no hard limit of a running process can be raised either. `rows` are
    the knobs that can be applied here, each with its files.
    """

    host: Host
    versions: Mapping[str, int]
    missing: frozenset[str] = frozenset()
    cpus: int = 1
    memory: int = 0
    limits: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    ceilings: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[tuple[Knob, Side], ...] = field(init=False, compare=False)
    _sides: Mapping[str, Side] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        rows = tuple((knob, side) for knob in KNOBS if (side := self._find(knob)))
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "_sides", {knob.path: side for knob, side in rows})

    def _find(self, knob: Knob) -> Side | None:
        side = knob.side(self.versions[knob.controller]) if knob.controller in self.versions else None
        return side if side and self.missing.isdisjoint(side.files) else None

    def side(self, knob: Knob) -> Side | None:
        """The knob's files on this machine; None where it has none (`lack` says why)."""
        return self._sides.get(knob.path)

    def lack(self, knob: Knob) -> str:
        """Why this machine cannot apply the knob; "" when it can."""
        if not knob.controller or self.side(knob):
            return ""
        version = self.versions.get(knob.controller)
        if version is None:
            return f"this host has no {knob.controller} controller"
        if knob.side(version) is None:
            return (
                f"cgroup v{version}, where this host has the {knob.controller} controller, has no counterpart"
            )
        absent = sorted(self.missing.intersection(knob.side(version).files))  # type: ignore[union-attr]
        return f"this kernel has no {', '.join(absent)}"


@dataclass(frozen=True, slots=True)
class ObservedGroup:
    """A control group of ours, or one where ours would be: its path below every hierarchy ("vsprov/web1").

    `owner` is the mark ("instance/set"), None without one. `texts` are the knob files by name; `controllers`
    the hierarchies it exists in, by name ("" is cgroup2).
    """

    path: str
    owner: str | None
    texts: Mapping[str, str] = field(default_factory=dict)
    controllers: frozenset[str] = frozenset()
    subtree: frozenset[str] = frozenset()
    applied: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A server's pid 1 as the host sees it.

    `start` is in clock ticks since boot, so that a reused pid shows.
    """

    pid: int
    start: int


@dataclass(frozen=True, slots=True)
class ObservedServer:
    """`applied` is the record of what was applied ({"spec", "labels", "annotations", "image"}), from the mark
    on the home cgroup or else from disk; `mark` and `disk` are the texts of those two, None where one is
    missing or was edited. `strays` are hierarchies in which init is not in its group. `populated`: some
    process is in the home. `live` is what each live aspect (`plan.aspects`) saw of a running server, by name.
    """

    name: str
    group: ObservedGroup | None = None
    owner: str | None = None
    directory: bool = False
    id_base: int | None = None
    applied: Mapping[str, Any] | None = None
    mark: str | None = None
    disk: str | None = None
    init: Process | None = None
    strays: tuple[str, ...] = ()
    populated: bool = False
    live: Mapping[str, Any] = field(default_factory=dict)

    def owners(self) -> tuple[str | None, ...]:
        """The marks on what there is of it: of its directory and its group."""
        return (*((self.owner,) if self.directory else ()), *((self.group.owner,) if self.group else ()))

    @property
    def set_owner(self) -> str | None:
        """The mark that says which set it belongs to."""
        return self.owner if self.directory else self.group.owner if self.group else None

    @property
    def state(self) -> str:
        return "Running" if self.init else "Stopped"


def is_of(owner: str | None, instance: str) -> bool:
    """Whether an owner mark, "instance/set", is of this instance."""
    return owner is not None and owner.partition("/")[0] == instance


def set_of(owner: str | None) -> str | None:
    """The set in an owner mark "instance/set"."""
    return owner.partition("/")[2] if owner else None


@dataclass(frozen=True, slots=True)
class ObservedImage:
    name: str
    digest: str
    owner: str | None
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything of one instance.

    `parent` is the group above all servers; `subtree` the controllers cgroup2's root passes down; `defaults`
    what images bring for their servers (`model.defaults`), by digest, of those that bring anything. `more`
    are the objects of kinds that need no field of their own here, {kind: {name: object}}.
    """

    servers: Mapping[str, ObservedServer] = field(default_factory=dict)
    pools: Mapping[str, ObservedGroup] = field(default_factory=dict)
    images: Mapping[str, ObservedImage] = field(default_factory=dict)
    parent: ObservedGroup | None = None
    subtree: frozenset[str] = frozenset()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
