"""Input and intermediate state of planning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from vsprov.errors import Problem
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.objects import DELETION, KINDS, PREVENT, REQUIRE, Object
from vsprov.plan import range_problems
from vsprov.plan.limits import groups
from vsprov.plan.observed import Machine, Observed, ObservedServer, is_of
from vsprov.plan.plan import Change
from vsprov.plan.steps import EnableControllers, Step

if TYPE_CHECKING:
    from vsprov.plan.network.desired.result import Desired

PROTECTED, UNPROTECT = (
    f"{DELETION}: {PREVENT}",
    "remove the annotation from its manifest, and apply that first",
)
EVERY_SET = "*"  # instead of the name of a set: all sets of the instance
RequestedAction = Literal["start", "stop", "restart"]


class Request(Struct, frozen=True):
    """A request to start, stop or restart servers without changing their specs.

    `servers` are their names. Servers without a record are not among the wanted objects and can only be
    stopped. `timeout`, in microseconds, overrides the stop timeout of each server. `checks`: it was carried
    out; servers that were meant to end, and have, do not start again. `host`: because the host starts or
    shuts down, so in the order of priorities, and with no effect on what happens when it starts again.
    `rescue`: start them for their repair, with a shell instead of their own init.
    """

    action: RequestedAction
    servers: frozenset[str]
    timeout: int | None = None
    checks: bool = False
    host: bool = False
    rescue: bool = False


class Wanted(Struct, frozen=True):
    """The wanted state, as input of planning.

    `owner` is "instance/set", or "instance/*" for all sets. `digests` are the current digests of image
    sources, by name of the image. `prune`: remove objects of this owner that are not among `objects`.
    `selected`: `objects` are only a part of the manifest. `remove` are the addresses of objects to remove in
    any case (destroy). `refresh`: query registries and mirrors again. With a `request`, `objects` are servers
    as they were last applied, in the requested state. `pinned` are the digests of the images that servers, by
    name, start with, whatever image has the name now. `automatic`: the keeper requests it, not a person.
    `volumes`: remove volumes too, as far as they are empty; `delete_data` are the names of volumes that are
    removed with their data.
    """

    instance: str
    owner: str
    objects: tuple[Object, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    prune: bool = False
    selected: bool = False
    remove: frozenset[str] = frozenset()
    refresh: bool = False
    request: Request | None = None
    pinned: Mapping[str, str] = field(default_factory=dict)
    automatic: bool = False
    volumes: bool = False
    delete_data: frozenset[str] = frozenset()

    def again(self) -> Wanted:
        """The wanted state after this was applied: the second plan for it must be empty."""
        request = self.request
        if request:
            action = "start" if request.action == "restart" else request.action
            request = replace(request, action=action, checks=True)
        return replace(self, refresh=False, request=request, delete_data=frozenset())

    def owns(self, owner: str | None) -> bool:
        """Whether an owner mark is of the set that is applied, or of the instance for `EVERY_SET`."""
        return owner == self.owner or (self.of_every_set and is_of(owner, self.instance))

    @property
    def verb(self) -> str:
        """The verb that people used, or "keeper" if nobody did."""
        if self.automatic:
            return "keeper"
        if self.request and self.request.host:
            return "boot" if self.request.action == "start" else "shutdown"
        if self.request:
            return self.request.action
        return "rename" if self.of_every_set and self.objects else "apply"

    @property
    def of_every_set(self) -> bool:
        """Whether it is of no manifest: objects are as they were last applied."""
        return self.owner.endswith(f"/{EVERY_SET}")


class PlanBuilder(Struct):
    """A plan under construction.

    `needed` are the controllers (v2 names) that groups of the plan need. `populated` is whether the plan
    defines any group. `weights` are the CPU weights to write, by address. `pools` are the wanted quotas of
    scope pool; those of scope server are merged into their servers. `networks` is the wanted state of all
    networks, None if there are none. `range_problems` are the problems of id ranges, by name of the server.
    `renamed` are the servers that get other names, as they are observed, by their new names.
    """

    wanted: Wanted
    observed: Observed
    machine: Machine
    changes: dict[str, Change] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    needed: set[str] = field(default_factory=set)
    populated: bool = False
    weights: Mapping[str, int] = field(default_factory=dict)
    by_kind: dict[str, dict[str, Object]] = field(default_factory=dict)
    pools: dict[str, Object] = field(default_factory=dict)
    networks: Desired | None = None
    renamed: Mapping[str, ObservedServer] = field(default_factory=dict)
    range_problems: Mapping[str, Problem] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.range_problems = range_problems.problems(self.observed.servers, self.machine.ranges)
        for want in self.wanted.objects:
            self.by_kind.setdefault(want.kind, {})[want.name] = want
            if isinstance(want.spec, Quota) and want.spec.scope == "pool":
                self.pools[want.name] = want

    def of(self, kind: str) -> Mapping[str, Object]:
        """The wanted objects of a kind, by name."""
        return self.by_kind.get(kind, {})

    @property
    def servers(self) -> Mapping[str, Object]:
        return self.of("Server")

    def add(self, address: str, change: Change | None) -> None:
        """Add the change of an object; None if it does not change."""
        if change is None:
            self.unchanged.append(address)
        else:
            self.changes[change.key] = change

    def note(self, address: str, text: str) -> None:
        """Add a remark on an object."""
        if text not in self.notes.get(address, ()):
            self.notes[address] = (*self.notes.get(address, ()), text)

    def problem(
        self, subject: str, message: str, hint: str = "", path: str = "", *, lack: bool = False
    ) -> None:
        """Add a reason why the plan cannot be applied; `lack`: this host does not support something."""
        self.problems.append(Problem(message, None, path, subject, hint, lack=lack))

    def refuse(
        self, want: Object, refusals: Mapping[str, str], hint: str = "", *, lack: bool = False
    ) -> None:
        """Add a problem for each refused knob, {path: reason}."""
        under = "spec.resources" if isinstance(want.spec, Server) else "spec"
        for knob, message in refusals.items():
            self.problem(want.address, message, hint, f"{under}.{knob}", lack=lack)

    def refuse_foreign(self, address: str, owner: str | None, what: str) -> bool:
        """Whether an existing object has another owner and must not be touched; adds a problem if so."""
        if self.wanted.owns(owner):
            return False
        if owner is None:
            hint = "vsprov did not create it; remove it or use another name"
            self.problem(address, f"{what} exists but has no owner mark", hint)
            return True
        instance, _, name = owner.partition("/")
        hint = (
            f"apply to set {name}, or destroy it in that set first"
            if instance == self.wanted.instance
            else ""
        )
        self.problem(address, f"{what} belongs to {owner}, not to {self.wanted.owner}", hint)
        return True

    def removes(self, kind: str, name: str, owner: str | None) -> bool:
        """Whether the plan removes an observed object that is not in the manifest."""
        return self.asks_to_remove(kind, name, owner) and not self.keeps(kind, name)

    def asks_to_remove(self, kind: str, name: str, owner: str | None) -> bool:
        """Whether it is to be removed, if objects of its kind may be."""
        pruned = self.wanted.prune and self.wanted.owns(owner)
        return f"{kind}/{name}" in self.wanted.remove or pruned

    def keeps(self, kind: str, name: str) -> bool:
        """Whether an object is of a kind that is kept unless its removal is requested explicitly."""
        return KINDS[kind].kept and not (self.wanted.volumes or name in self.wanted.delete_data)

    def note_lacking(self, want: Object) -> None:
        """Add a note for each knob that this host does not support; a problem if the object requires it."""
        assert isinstance(want.spec, Quota | Server)
        lacking = groups.unsupported(want.spec.resources, self.machine)
        if want.annotations.get(REQUIRE) == "hard":
            refused = {path: f"cannot be applied: {lack}" for path, lack in lacking.items()}
            self.refuse(want, refused, f"remove the annotation {REQUIRE}: hard to apply the rest", lack=True)
        elif lacking:
            for path, lack in lacking.items():
                self.note(want.address, f"{path} is not enforced: {lack}")

    def enable(self, group: str, needed: Iterable[str], enabled: frozenset[str]) -> tuple[Step, ...]:
        """The step that enables controllers for children of a cgroup2 group; () if they are."""
        versions = self.machine.versions
        missing = sorted(name for name in needed if versions.get(name) == 2 and name not in enabled)
        return (EnableControllers(group, tuple(missing)),) if missing else ()
