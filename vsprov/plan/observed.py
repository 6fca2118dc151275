"""The observed state: the machine, and all objects of an instance in the kernel and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from signal import SIGHUP, SIGINT
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import force_setattr

from vsprov.model.limits.encodings import Host, Side
from vsprov.model.limits.knobs import KNOBS, Knob
from vsprov.model.values.names import signal_name
from vsprov.model.values.styles import EXEC, is_system
from vsprov.plan.ranges import Ranges
from vsprov.plan.seen_disk import SeenDisk

if TYPE_CHECKING:
    from vsprov.plan.network.state import SeenNetworks
    from vsprov.plan.scheduled import Scheduled

UNHEALTHY = "Unhealthy"
HOOKS, HOOKS_DUE = "hooks", "postStop"  # the mark on a home group, see `plan.servers.hooks`
PROTECTION_MARK = "deletion"  # of pools and images; for other objects it is part of their record
HOOK_GROUPS = ".hook-"  # how the names of the groups of hooks begin, which are beside those of servers
RESCUE, RESCUED = "rescue", "Rescue"  # the same of a server that was started for its repair
FREEZE, FROZEN = "freeze", "Frozen"  # the live aspect, and the state of a server that it finds frozen


OUT_OF_MEMORY = "out of memory"
# The signals by which the init of a pid namespace ends when a process of it calls reboot(2).
_REBOOT: Mapping[int | None, str] = {SIGINT: "Halted", SIGHUP: "Rebooted"}
RESTARTING = "Restarting"


class Machine(Struct, frozen=True):
    """The properties of the host that planning needs.

    `versions` is the cgroup version of each controller of the host, by v2 name. `missing` are the controller
    files that this kernel lacks. `memory` is in bytes. `limits` are the resource limits of a server that sets
    none, {name: (soft, hard)}. `ceilings` are the highest hard limits that vsprov can set; {} if it has
    CAP_SYS_RESOURCE, which raising a hard limit of a running process requires. `ranges` are the ids that
    servers may have. `disks` says of each backend of disk limits why this host does not support it, "" if it
    does; {} if it was not asked. `rows` are the knobs that this host supports, with their files.
    """

    host: Host
    versions: Mapping[str, int]
    missing: frozenset[str] = frozenset()
    cpus: int = 1
    memory: int = 0
    limits: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    ceilings: Mapping[str, Any] = field(default_factory=dict)
    ranges: Ranges = Ranges()
    disks: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[tuple[Knob, Side], ...] = ()
    _sides: Mapping[str, Side] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = tuple((knob, side) for knob in KNOBS if (side := self._find(knob)))
        force_setattr(self, "rows", rows)
        force_setattr(self, "_sides", {knob.path: side for knob, side in rows})

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


class ObservedGroup(Struct, frozen=True):
    """A control group of this instance, or another group that has its name.

    `path` is relative to the root of every hierarchy ("vsprov/web1"). `owner` is the owner mark
    ("instance/set"), None without one. `texts` are the contents of knob files, by file name. `controllers`
    are the hierarchies in which it exists ("" is cgroup2), `subtree` the controllers that are enabled for its
    children. `applied` is the recorded spec of a pool, and `disk` the text of its record on disk, None if
    that is missing or damaged. `protected` is whether a pool must not be removed. `space` is what limits what
    the servers of a pool write together, None if nothing ever did.
    """

    path: str
    owner: str | None
    texts: Mapping[str, str] = field(default_factory=dict)
    controllers: frozenset[str] = frozenset()
    subtree: frozenset[str] = frozenset()
    applied: Mapping[str, Any] | None = None
    protected: bool = False
    disk: str | None = None
    space: SeenDisk | None = None


class Process(Struct, frozen=True):
    """A process by its pid on the host, and its start time in clock ticks since boot.

    The start time distinguishes it from a later process with the same pid.
    """

    pid: int
    start: int


class LastExit(Struct, frozen=True):
    """How the init of a server ended: its exit code, or the signal that killed it; and when, in Unix time.

    Code and signal are both None if neither the kernel nor a process of vsprov knows. `oom` is whether the
    kernel killed a process of the server for lack of memory while it ran; not if its init ended with 0.
    `stopped_by` is the verb of vsprov that stopped it, "keeper" if that did, "" if it ended by itself;
    `killed` is why its stop signal was not enough, "" if it was; `failed` is what of its start has failed, if
    it was stopped because of that.
    """

    code: int | None
    signal: int | None
    oom: bool
    at: float
    stopped_by: str = ""
    killed: str = ""
    failed: str = ""

    def __str__(self) -> str:
        """As the state of a server: Exited (3), Exited (SIGKILL, out of memory), Halted."""
        if self.failed:
            return f"Exited ({self.reason})"
        if self.signal in _REBOOT:
            return _REBOOT[self.signal]
        how = "unknown" if self.code is None else str(self.code)
        if self.signal is not None:
            how = f"SIG{signal_name(self.signal)}"
        return f"Exited ({how}, {OUT_OF_MEMORY})" if self.oom else f"Exited ({how})"

    @property
    def reason(self) -> str:
        """Why it ended, if the code or signal does not say it: out of memory, reboot, halt, a hook that has
        failed; else "".
        """
        if self.failed:
            return f"{self.failed} failed"
        if self.is_reboot:
            return "halt" if self.signal == SIGINT else "reboot"
        return OUT_OF_MEMORY if self.oom else ""

    @property
    def is_reboot(self) -> bool:
        """Whether a process of the server has called reboot(2), to restart or halt it."""
        return self.signal in _REBOOT


class Restarts(Struct, frozen=True):
    """What the keeper has decided about a server that has ended: it is started again (`due`) at a Unix time
    `at`, or not any more. `count` is the number of restarts within the interval of its policy, `reason` why
    it is started again: "exit", "reboot" or "unhealthy". `error` is why the last attempt failed, "" if it
    did not.
    """

    due: bool
    at: float
    count: int
    reason: str
    error: str = ""

    def gave_up(self, policy: Mapping[str, Any]) -> str:
        """Why it stays down: "gave up after 5 restarts in 10m". `policy` is its recorded key `restart`."""
        plural = "" if self.count == 1 else "s"
        return f"gave up after {self.count} restart{plural} in {policy.get('interval', '')}"


class Probed(Struct, frozen=True):
    """What a probe of a running server has found out: `ok`, None if nothing yet, since `at`, in Unix time.

    `message` is why the last probe failed, "" if it did not. `unknown`: the host could not make the last
    probe, and `message` is why; `ok` is what was known before.
    """

    ok: bool | None
    at: float = 0.0
    message: str = ""
    unknown: bool = False


class Parts(Struct, frozen=True):
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


class ObservedServer(Struct, frozen=True):
    """A server, or what exists of it.

    `applied` is the record of what was applied ({"spec", "labels", "annotations", "image"}), from the mark on
    the home cgroup or else from disk. `mark` and `disk` are the texts of those two, None if missing or
    edited. `directory` is whether its directory exists, `owner` the owner mark of that, `id_base` the first
    id of its range if known, `parts` what is in it. `detached` are the parts of its root file system
    ("upper", "work", keys of layers) that were removed or replaced on disk since it started. `init` is its
    pid 1, if it runs. `strays` are the hierarchies in which init is outside its group. `populated` is whether
    the home group has processes. `live` has the observed value of each live aspect (`plan.aspects`), by name.
    `ended` is whether its init has ended without being stopped by vsprov, `last_exit` how it ended, since it
    was last started. `readiness` and `health` are what its probes have found out while it runs, None without
    such a probe. `stopped` is who wants it to stay stopped when the host starts, the "manifest" or a
    "command"; "" if nobody does. `restarts` is what the keeper has decided about a server that has ended.
    `hooks_due`: the commands of its postStop have not run since it was started. `space` is what limits what
    it writes, None without a limit; `unlimited`: one is recorded, but nothing limits where its files are.
    `scheduled` are its snapshots by a schedule, None without one.
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
    readiness: Probed | None = None
    health: Probed | None = None
    restarts: Restarts | None = None
    parts: Parts | None = None
    detached: tuple[str, ...] = ()
    stopped: str = ""
    hooks_due: bool = False
    space: SeenDisk | None = None
    scheduled: Scheduled | None = None
    unlimited: bool = False

    def owners(self) -> tuple[str | None, ...]:
        """The owner marks of its directory and its group, of those that exist."""
        return (*((self.owner,) if self.directory else ()), *((self.group.owner,) if self.group else ()))

    @property
    def starts_with_host(self) -> bool:
        """Whether it starts when the host does: its manifest wants it to run, and nothing keeps it from that.

        One that a command has stopped stays stopped, unless its restart policy is always.
        """
        spec = self.applied["spec"] if self.applied else {}
        if not spec.get("boot", {}).get("autostart", True) or self.stopped == "manifest":
            return False
        return not self.stopped or spec.get("restart", {}).get("policy") == "always"

    @property
    def set_owner(self) -> str | None:
        """The owner mark that decides which set it belongs to."""
        return self.owner if self.directory else self.group.owner if self.group else None

    @property
    def state(self) -> str:
        """Running, Frozen, Rescue, or, if it is probed, Starting, Ready, NotReady or Unhealthy; Stopped (on
        purpose, or never started), Restarting (once that is due), or how its init ended by itself.
        """
        if self.init:
            if self.live.get(FREEZE):
                return FROZEN
            return RESCUED if self.live.get(RESCUE) else self._probed_state()
        if not self.ended:
            return "Stopped"
        if self.restarts and self.restarts.due:
            return RESTARTING
        return str(self.last_exit) if self.last_exit else "Exited (unknown)"

    def _probed_state(self) -> str:
        if self.health and self.health.ok is False:
            return UNHEALTHY
        if self.readiness is None:
            return "Running"
        return {None: "Starting", True: "Ready", False: "NotReady"}[self.readiness.ok]

    @property
    def boots(self) -> bool:
        """Whether it runs the init of its image, which has a terminal as its console."""
        if self.init is None or self.applied is None or self.live.get(RESCUE):
            return False
        return is_system(self.applied["spec"].get("init", {}).get("style", EXEC))

    @property
    def is_ready(self) -> bool:
        """Whether it runs and is ready to work, or has done what it was meant to do."""
        once = self.applied is not None and bool(self.applied["spec"].get("init", {}).get("oneshot"))
        if self.init is None or (once and self.readiness is None):
            return self.init is None and once and self.completed
        return not self.live.get(FREEZE) and (self.readiness is None or self.readiness.ok is True)

    @property
    def completed(self) -> bool:
        """Whether its command has ended by itself, with exit code 0."""
        return self.ended and self.last_exit is not None and self.last_exit.code == 0

    @property
    def wanted_state(self) -> str:
        """The key `state` of a manifest that describes it as it is."""
        once = self.applied is not None and bool(self.applied["spec"].get("init", {}).get("oneshot"))
        return "Running" if self.init or (once and self.completed) else "Stopped"


def hooks_due(seen: ObservedServer) -> bool:
    """Whether a server has ended by itself, and the hooks that run then have not run yet."""
    return seen.hooks_due and seen.ended and not seen.populated


def is_of(owner: str | None, instance: str) -> bool:
    """Whether an owner mark ("instance/set") is of this instance."""
    return owner is not None and owner.partition("/")[0] == instance


def set_of(owner: str | None) -> str | None:
    """The set in an owner mark ("instance/set")."""
    return owner.partition("/")[2] if owner else None


class ObservedImage(Struct, frozen=True):
    """An image in the store, with the spec that it was imported with; `digest` is "" if it is broken.

    `owners` are the owner marks of the sets that have it in their manifests, () without a mark. `protected`
    are the names of those sets whose manifests say that it must not be removed.
    """

    name: str
    digest: str
    owners: tuple[str, ...]
    spec: Mapping[str, Any]
    protected: tuple[str, ...] = ()


class Observed(Struct, frozen=True):
    """All objects of one instance.

    `parent` is the parent group of all servers. `subtree` are the controllers that the root of cgroup2
    enables for its children. `defaults` are the defaults of images (`model.defaults`), by digest. `more` are
    the objects of kinds without a field here, {kind: {name: object}}. `networks` is what the kernel has for
    networks; None if neither the manifest nor the instance has any network or interface. `lost_pools` are
    pools that are recorded on disk but have no group, as after a reboot.
    """

    servers: Mapping[str, ObservedServer] = field(default_factory=dict)
    pools: Mapping[str, ObservedGroup] = field(default_factory=dict)
    images: Mapping[str, ObservedImage] = field(default_factory=dict)
    parent: ObservedGroup | None = None
    subtree: frozenset[str] = frozenset()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    networks: SeenNetworks | None = None
    lost_pools: Mapping[str, ObservedGroup] = field(default_factory=dict)

    @property
    def all_pools(self) -> Mapping[str, ObservedGroup]:
        """The pools with a group, and those that are only recorded."""
        return {**self.pools, **self.lost_pools} if self.lost_pools else self.pools

    def id_bases(self) -> list[int]:
        """The first ids of the ranges of all servers."""
        return [seen.id_base for seen in self.servers.values() if seen.id_base]
