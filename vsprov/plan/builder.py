"""A plan being built: what it is made from, and what has been gathered so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from vsprov.errors import Problem
from vsprov.model.objects import REQUIRE, Object, Quota, Server
from vsprov.plan import groups
from vsprov.plan.observed import Machine, Observed, is_of
from vsprov.plan.plan import Change
from vsprov.plan.steps import EnableControllers, Step

EVERY_SET = "*"  # in place of a set's name: whatever set an object of the instance belongs to
Action = Literal["start", "stop", "restart"]


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of servers as they were last applied: `vsprov start`, `stop`, `restart`.

    `servers` are their names; those whose record is lost are not among the wanted objects, and can only be
    stopped. `timeout`, in microseconds, replaces the time that each server has to stop.
    """

    action: Action
    servers: frozenset[str]
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an apply asks for.

    `digests` gives each image's digest, as its source is now; `owner` is "instance/set", or "instance/*" for
    every set. `prune`: what this owner made and `objects` lacks is removed. `selected`: `objects` are only
    some of the manifest's. `remove` names addresses that are removed in any case (destroy). `refresh`: what
    registries and mirrors have now is asked for. With a `request` the objects are servers as they were last
    applied, in the state that is asked for.
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

    def again(self) -> Wanted:
        """What has to be true once this was done: a second plan for it is empty."""
        request = self.request
        if request and request.action == "restart":
            request = replace(request, action="start")
        return replace(self, refresh=False, request=request)

    def owns(self, owner: str | None) -> bool:
        """Whether an owner mark is that of this apply's set."""
        return owner == self.owner or (self.owner.endswith(f"/{EVERY_SET}") and is_of(owner, self.instance))


@dataclass(slots=True)
class PlanBuilder:
    """`needed` are the controllers (v2 names) that some group of ours needs; `populated` says whether any
    group of ours stays. `weights` are the CPU weights to write, by address.
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

    def __post_init__(self) -> None:
        for want in self.wanted.objects:
            self.by_kind.setdefault(want.kind, {})[want.name] = want

    def of(self, kind: str) -> Mapping[str, Object]:
        """The wanted objects of a kind, by name."""
        return self.by_kind.get(kind, {})

    @property
    def servers(self) -> Mapping[str, Object]:
        return self.of("Server")

    @property
    def pools(self) -> Mapping[str, Object]:
        """The quotas of scope pool; those of scope server are part of the servers that name them."""
        return {
            name: want
            for name, want in self.of("Quota").items()
            if isinstance(want.spec, Quota) and want.spec.scope == "pool"
        }

    def add(self, address: str, change: Change | None) -> None:
        """Add what happens to an object; None is nothing."""
        if change is None:
            self.unchanged.append(address)
        else:
            self.changes[change.key] = change

    def problem(
        self, subject: str, message: str, hint: str = "", path: str = "", *, lack: bool = False
    ) -> None:
        self.problems.append(Problem(message, None, path, subject, hint, lack=lack))

    def refuse(
        self, want: Object, refusals: Mapping[str, str], hint: str = "", *, lack: bool = False
    ) -> None:
        """Add a problem for each knob that is refused, {path: why}."""
        under = "spec.resources" if isinstance(want.spec, Server) else "spec"
        for knob, message in refusals.items():
            self.problem(want.address, message, hint, f"{under}.{knob}", lack=lack)

    def refuse_foreign(self, address: str, owner: str | None, what: str) -> bool:
        """True, with a problem, when an object that is in our way is someone else's (promise 4)."""
        if self.wanted.owns(owner):
            return False
        if owner is None:
            hint = "vsprov did not make it; remove it or use another name"
            self.problem(address, f"{what} exists and does not carry our mark", hint)
            return True
        instance, _, name = owner.partition("/")
        hint = f"apply to set {name}, or destroy it there first" if instance == self.wanted.instance else ""
        self.problem(address, f"{what} belongs to {owner}, not to {self.wanted.owner}", hint)
        return True

    def removes(self, kind: str, name: str, owner: str | None) -> bool:
        """Whether an observed object that the manifest does not have is to be removed."""
        pruned = self.wanted.prune and self.wanted.owns(owner)
        return f"{kind}/{name}" in self.wanted.remove or pruned

    def note_lacking(self, want: Object) -> None:
        """Note which knobs this host cannot apply; a problem where the object requires them."""
        assert isinstance(want.spec, Quota | Server)
        lacking = groups.unsupported(want.spec.resources, self.machine)
        if want.annotations.get(REQUIRE) == "hard":
            refused = {path: f"cannot be applied: {lack}" for path, lack in lacking.items()}
            self.refuse(want, refused, f"drop the annotation {REQUIRE}: hard to apply the rest", lack=True)
        elif lacking:
            self.notes[want.address] = tuple(
                f"{path} is not applied: {lack}" for path, lack in lacking.items()
            )

    def enable(self, group: str, needed: Iterable[str], enabled: frozenset[str]) -> tuple[Step, ...]:
        """The step that enables the controllers that the children of a cgroup2 group need; () if they are."""
        versions = self.machine.versions
        missing = sorted(name for name in needed if versions.get(name) == 2 and name not in enabled)
        return (EnableControllers(group, tuple(missing)),) if missing else ()
