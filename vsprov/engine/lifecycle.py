"""Starting, stopping and restarting servers as they were last applied, and removing all of an instance.

What a server should be is not changed, so a server that was stopped here is drift in the next plan. It starts
on its image as the store now has it, and that is recorded; whatever else of it is not as it was applied is
put right with the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from vsprov.engine.apply import converge
from vsprov.engine.apply.converge import Outcome, Proposal, Report
from vsprov.engine.look import situation
from vsprov.engine.look.observe import refuse_foreign
from vsprov.errors import FailedError
from vsprov.model.objects import Object, Server
from vsprov.model.suggest import not_found
from vsprov.plan import applied
from vsprov.plan.builder import EVERY_SET, Action, Request, Wanted
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.plan.observed import Observed, ObservedServer, is_of
from vsprov.store.instance import Instance


@dataclass(frozen=True, slots=True)
class Changed:
    """How it went: `outcome` of the servers that had to change, names of those `already` as asked for."""

    outcome: Outcome
    already: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which servers are meant: these names, those whose labels are selected, or all."""

    names: tuple[str, ...] = ()
    selected: Callable[[Mapping[str, str]], bool] | None = None
    everything: bool = False

    def of(self, observed: Observed, instance: str) -> list[ObservedServer]:
        """Those of this instance, each once. FailedError for a name that none of them has."""
        for name in self.names:
            if name not in observed.servers:
                raise not_found("Server", name, observed.servers)
            refuse_foreign(observed.servers[name], instance)
        found = [observed.servers[name] for name in dict.fromkeys(self.names)]
        for seen in observed.servers.values():
            chosen = self.everything or (
                self.selected and seen.applied and self.selected(seen.applied["labels"])
            )
            if chosen and all(is_of(owner, instance) for owner in seen.owners()):
                found.append(seen)
        return found


def change_state(
    instance: Instance,
    action: Action,
    choice: Choice,
    report: Report,
    *,
    timeout: int | None = None,
    parallelism: int = converge.PARALLELISM,
    lock_timeout: float = 0.0,
) -> Changed:
    """Start, stop or restart the servers; those that are so already are left alone. `timeout`, in
    microseconds, replaces each server's own time to stop. Raises FailedError for a server that cannot be
    started as it is, before any is touched.
    """
    with converge.alone(instance, lock_timeout, report):
        now = situation.look(instance)
        chosen = choice.of(now.observed, instance.name)
        already = tuple(seen.name for seen in chosen if _is_so(action, seen))
        chosen = [seen for seen in chosen if seen.name not in already]
        wanted = Wanted(
            instance.name,
            f"{instance.name}/{EVERY_SET}",
            tuple(want for seen in chosen if (want := _recorded(action, seen))),
            selected=True,
            request=Request(action, frozenset(seen.name for seen in chosen), timeout),
        )
        proposal = converge.propose(instance, wanted)
        return Changed(converge.perform(instance, proposal, report, parallelism=parallelism), already)


def _is_so(action: Action, seen: ObservedServer) -> bool:
    if action == "stop":
        return not (seen.init or seen.populated)
    return action == "start" and seen.init is not None


def _recorded(action: Action, seen: ObservedServer) -> Object | None:
    """The server as it was last applied, in the state that is asked for; None where its record is lost, and
    it can only be stopped.
    """
    if seen.applied is None and action == "stop":
        return None
    if seen.applied is None:
        raise FailedError(
            f"Server/{seen.name}: {action}: its record is lost or was edited, so what it runs is unknown",
            hint="apply its manifest",
        )
    found = applied.to_object(seen.name, seen.applied)
    assert isinstance(found.spec, Server)
    return replace(found, spec=replace(found.spec, state="Stopped" if action == "stop" else "Running"))


# -- everything


def destroy_all(
    instance: Instance,
    report: Report,
    *,
    approve: Callable[[Proposal], bool] = lambda proposal: True,
    parallelism: int = converge.PARALLELISM,
    lock_timeout: float = 0.0,
) -> Outcome:
    """Remove all that bears this instance's mark, of whichever set, and what is left of the instance."""
    with converge.alone(instance, lock_timeout, report):
        now = situation.look(instance)
        remove = frozenset(_removable(now.observed, instance.name, report))
        wanted = Wanted(instance.name, f"{instance.name}/{EVERY_SET}", remove=remove)
        proposal = converge.propose(instance, wanted)
        return converge.perform(instance, proposal, report, approve=approve, parallelism=parallelism)


def _removable(observed: Observed, instance: str, report: Report) -> Iterable[str]:
    """The addresses of all that is this instance's, except for what an object needs that is left alone."""
    kept: set[str] = set()
    ours: list[str] = []
    for planner in PLANNERS.values():
        for name, seen in planner.observed(observed).items():
            address = f"{planner.kind}/{name}"
            if all(is_of(owner, instance) for owner in planner.owners(seen)):
                ours.append(address)
            else:
                report.notice(f"{address}: left alone: some of it does not carry our mark")
                kept.update((*planner.holds(seen), *planner.follows(seen)))
    for address in ours:
        if address in kept:
            report.notice(f"{address}: left alone: an object that stays needs it")
        else:
            yield address
