"""A plan being made: what it is made from, and what has been gathered so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vsprov.errors import Problem
from vsprov.model.objects import REQUIRE, Object, Quota, Server
from vsprov.plan import groups
from vsprov.plan.observed import Machine, Observed
from vsprov.plan.plan import Change
from vsprov.plan.steps import PassDown, Step


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an apply asks for.

    `digests` gives each image's digest, as its source is now; `owner` is "instance/set". `prune`: what this
    owner made and `objects` lacks goes. `selected`: `objects` are only some of the manifest's. `remove` names
    addresses that go in any case (destroy). `fresh`: what registries and mirrors have now is asked for.
    """

    instance: str
    owner: str
    objects: tuple[Object, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    prune: bool = False
    selected: bool = False
    remove: frozenset[str] = frozenset()
    fresh: bool = False


@dataclass(slots=True)
class Draft:
    """`needed` are the controllers (v2 names) that some group of ours needs; `populated` says whether any
    group of ours stays. `pools` and `servers` are the wanted ones by name.
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
    pools: dict[str, Object] = field(default_factory=dict)
    servers: dict[str, Object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for want in self.wanted.objects:
            if isinstance(want.spec, Server):
                self.servers[want.name] = want
            elif isinstance(want.spec, Quota) and want.spec.scope == "pool":
                self.pools[want.name] = want

    def add(self, address: str, change: Change | None) -> None:
        """Take in what happens to an object; None is nothing."""
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
        """A problem at each knob that is refused, {path: why}."""
        under = "spec.resources" if isinstance(want.spec, Server) else "spec"
        for knob, message in refusals.items():
            self.problem(want.address, message, hint, f"{under}.{knob}", lack=lack)

    def foreign(self, address: str, owner: str | None, what: str) -> bool:
        """True, with a problem, when an object that stands in our way is someone else's (promise 4)."""
        if owner == self.wanted.owner:
            return False
        if owner is None:
            hint = "vsprov did not make it; remove it or use another name"
            self.problem(address, f"{what} exists and does not carry our mark", hint)
            return True
        instance, _, name = owner.partition("/")
        hint = f"apply to set {name}, or destroy it there first" if instance == self.wanted.instance else ""
        self.problem(address, f"{what} belongs to {owner}, not to {self.wanted.owner}", hint)
        return True

    def note_lacking(self, want: Object) -> None:
        """Say which knobs this host cannot apply; a problem where the object insists on them."""
        assert isinstance(want.spec, Quota | Server)
        lacking = groups.unsupported(want.spec.resources, self.machine)
        if want.annotations.get(REQUIRE) == "hard":
            refused = {path: f"cannot be applied: {lack}" for path, lack in lacking.items()}
            self.refuse(want, refused, f"drop the annotation {REQUIRE}: hard to apply the rest", lack=True)
        elif lacking:
            self.notes[want.address] = tuple(
                f"{path} is not applied: {lack}" for path, lack in lacking.items()
            )

    def pass_down(self, group: str, needed: Iterable[str], there: frozenset[str]) -> tuple[Step, ...]:
        """The step that gives a cgroup2 group's children the controllers they need; () if they have them."""
        versions = self.machine.versions
        missing = sorted(name for name in needed if versions.get(name) == 2 and name not in there)
        return (PassDown(group, tuple(missing)),) if missing else ()
