"""The observed state: the machine, and all objects of an instance in the kernel and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vsprov.model.limits.encodings import Host, Side
from vsprov.model.limits.knobs import KNOBS, Knob
from vsprov.plan.ranges import Ranges

if TYPE_CHECKING:
    from vsprov.plan.network.state import SeenNetworks

FREEZE, FROZEN = "freeze", "Frozen"  # the live aspect, and the state of a server that it finds frozen


@dataclass(frozen=True, slots=True)
class Machine:
    """The properties of the host that planning needs.

    `versions` is the cgroup version of each controller of the host, by v2 name. `missing` are the controller
    files that this kernel lacks. `memory` is in bytes. `limits` are the resource limits of a server that sets
    none, {name: (soft, hard)}. `ceilings` are the highest hard limits that vsprov can set; {} if it has
    CAP_SYS_RESOURCE, which raising a hard limit of a running process requires. `ranges` are the ids that
    servers may have. `rows` are the knobs that this host supports, with their files.
    """

    host: Host
    versions: Mapping[str, int]
    missing: frozenset[str] = frozenset()
    cpus: int = 1
    memory: int = 0
    limits: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    ceilings: Mapping[str, Any] = field(default_factory=dict)
    ranges: Ranges = Ranges()
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
        """The files of a knob on this machine; None if it is not supported (`lack` says why)."""
        return self._sides.get(knob.path)

    def lack(self, knob: Knob) -> str:
        """Why this machine does not support the knob; "" if it does."""
        if not knob.controller or self.side(knob):
            return ""
        version = self.versions.get(knob.controller)
        if version is None:
            return f"this host has no {knob.controller} controller"
        if knob.side(version) is None:
            return f"the {knob.controller} controller is on cgroup v{version}, which has no equivalent"
        absent = sorted(self.missing.intersection(knob.side(version).files))  # type: ignore[union-attr]
        return f"this kernel has no {', '.join(absent)}"


@dataclass(frozen=True, slots=True)
class ObservedGroup:
    """A control group of this instance, or another group that has its name.

    `path` is relative to the root of every hierarchy ("vsprov/web1"). `owner` is the owner mark
    ("instance/set"), None without one. `texts` are the contents of knob files, by file name. `controllers`
    are the hierarchies in which it exists ("" is cgroup2), `subtree` the controllers that are enabled for its
    children. `applied` is the recorded spec of a pool.
    """

    path: str
    owner: str | None
    texts: Mapping[str, str] = field(default_factory=dict)
    controllers: frozenset[str] = frozenset()
    subtree: frozenset[str] = frozenset()
    applied: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process by its pid on the host, and its start time in clock ticks since boot.

    The start time distinguishes it from a later process with the same pid.
    """

    pid: int
    start: int


@dataclass(frozen=True, slots=True)
class LastExit:
    """How the init of a server ended: its exit code, or the signal that killed it; and when, in Unix time.

    Code and signal are both None if neither the kernel nor a process of vsprov knows. `oom` is whether the
    kernel killed a process of the server for lack of memory while it ran; not if its init ended with 0.
    """

    code: int | None
    signal: int | None
    oom: bool
    at: float

    def __str__(self) -> str:
        """As the state of a server: OOM, Killed (9), Exited (3), or Exited if nobody knows how."""
        if self.oom:
            return "OOM"
        if self.signal is not None:
            return f"Killed ({self.signal})"
        return "Exited" if self.code is None else f"Exited ({self.code})"


@dataclass(frozen=True, slots=True)
class Parts:
    """What is in the directory of a server.

    `recorded` is the first id of its range according to its record, None if that has none. `upper` and `work`
    are the (uid, gid) of these directories, None for one that is missing.
    """

    recorded: int | None = None
    upper: tuple[int, int] | None = None
    work: tuple[int, int] | None = None

    def missing(self) -> tuple[str, ...]:
        """The names of the directories that are missing."""
        return tuple(name for name in ("upper", "work") if getattr(self, name) is None)


@dataclass(frozen=True, slots=True)
class ObservedServer:
    """A server, or what exists of it.

    `applied` is the record of what was applied ({"spec", "labels", "annotations", "image"}), from the mark on
    the home cgroup or else from disk. `mark` and `disk` are the texts of those two, None if missing or
    edited. `directory` is whether its directory exists, `owner` the owner mark of that, `id_base` the first
    id of its range if known, `parts` what is in it. `detached` are the parts of its root file system
    ("upper", "work", keys of layers) that were removed or replaced on disk since it started. `init` is its
    pid 1, if it runs. `strays` are the hierarchies in which init is outside its group. `populated` is whether
    the home group has processes. `live` has the observed value of each live aspect (`plan.aspects`), by name.
    `ended` is whether its init has ended without being stopped by vsprov, `last_exit` how it ended, since it
    was last started.
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
    ended: bool = False
    last_exit: LastExit | None = None
    parts: Parts | None = None
    detached: tuple[str, ...] = ()

    def owners(self) -> tuple[str | None, ...]:
        """The owner marks of its directory and its group, of those that exist."""
        return (*((self.owner,) if self.directory else ()), *((self.group.owner,) if self.group else ()))

    @property
    def set_owner(self) -> str | None:
        """The owner mark that decides which set it belongs to."""
        return self.owner if self.directory else self.group.owner if self.group else None

    @property
    def state(self) -> str:
        """Running, Frozen, Stopped (on purpose, or never started), or how its init ended by itself."""
        if self.init:
            return FROZEN if self.live.get(FREEZE) else "Running"
        if not self.ended:
            return "Stopped"
        return str(self.last_exit) if self.last_exit else "Exited"

    @property
    def completed(self) -> bool:
        """Whether its command has ended by itself, with exit code 0."""
        return self.ended and self.last_exit is not None and self.last_exit.code == 0

    @property
    def wanted_state(self) -> str:
        """The key `state` of a manifest that describes it as it is."""
        once = self.applied is not None and bool(self.applied["spec"].get("init", {}).get("oneshot"))
        return "Running" if self.init or (once and self.completed) else "Stopped"


def is_of(owner: str | None, instance: str) -> bool:
    """Whether an owner mark ("instance/set") is of this instance."""
    return owner is not None and owner.partition("/")[0] == instance


def set_of(owner: str | None) -> str | None:
    """The set in an owner mark ("instance/set")."""
    return owner.partition("/")[2] if owner else None


@dataclass(frozen=True, slots=True)
class ObservedImage:
    """An image in the store, with the spec that it was imported with; `digest` is "" if it is broken.

    `owners` are the owner marks of the sets that have it in their manifests, () without a mark.
    """

    name: str
    digest: str
    owners: tuple[str, ...]
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Observed:
    """All objects of one instance.

    `parent` is the parent group of all servers. `subtree` are the controllers that the root of cgroup2
    enables for its children. `defaults` are the defaults of images (`model.defaults`), by digest. `more` are
    the objects of kinds without a field here, {kind: {name: object}}. `networks` is what the kernel has for
    networks; None if neither the manifest nor the instance has any network or interface.
    """

    servers: Mapping[str, ObservedServer] = field(default_factory=dict)
    pools: Mapping[str, ObservedGroup] = field(default_factory=dict)
    images: Mapping[str, ObservedImage] = field(default_factory=dict)
    parent: ObservedGroup | None = None
    subtree: frozenset[str] = frozenset()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    networks: SeenNetworks | None = None

    def id_bases(self) -> list[int]:
        """The first ids of the ranges of all servers."""
        return [seen.id_base for seen in self.servers.values() if seen.id_base]
