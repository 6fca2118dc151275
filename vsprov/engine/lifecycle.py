"""Start, stop and restart servers as they were last applied, and destroy a whole instance.

The wanted state does not change, so the next plan shows a server that was stopped here as drift. A server
starts with the current version of its image in the store, which is recorded. Any other drift of the server is
repaired when it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from vsprov.engine.apply import converge, settle
from vsprov.engine.apply.converge import Outcome, Proposal
from vsprov.engine.apply.report import Report
from vsprov.engine.look import situation
from vsprov.engine.look.observe import refuse_foreign
from vsprov.errors import FailedError
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.model.suggest import not_found
from vsprov.plan.builder import EVERY_SET, Request, RequestedAction, Wanted
from vsprov.plan.compare import applied
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.plan.observed import Observed, ObservedServer, is_of
from vsprov.plan.plan import Plan
from vsprov.store.instance import Instance
from vsprov.store.layers import sizes


@dataclass(frozen=True, slots=True)
class Changed:
    """The `outcome` for servers that had to change, and the names of those `already` in that state."""

    outcome: Outcome
    already: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A selection of servers: by name, by labels, or all."""

    names: tuple[str, ...] = ()
    selected: Callable[[Mapping[str, str]], bool] | None = None
    everything: bool = False

    def of(self, observed: Observed, instance: str) -> list[ObservedServer]:
        """The selected servers of the instance, without duplicates. FailedError for an unknown name."""
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
    action: RequestedAction,
    choice: Choice,
    report: Report,
    *,
    timeout: int | None = None,
    parallelism: int = converge.PARALLELISM,
    lock_timeout: float = 0.0,
    settle_seconds: float = settle.SECONDS,
) -> Changed:
    """Start, stop or restart servers, except those that are already in the requested state.

    `timeout`, in microseconds, overrides the stop timeout of each server; see `settle.watch` for
    `settle_seconds`. FailedError, before any change, if a server cannot be started.
    """
    with converge.exclusive(instance, lock_timeout, report):
        now = situation.look(instance)
        chosen = choice.of(now.observed, instance.name)
        already = tuple(seen.name for seen in chosen if _is_already(action, seen))
        chosen = [seen for seen in chosen if seen.name not in already]
        for line in _unmet_dependencies(action, chosen, now.observed):
            report.notice(line)
        wanted = Wanted(
            instance.name,
            f"{instance.name}/{EVERY_SET}",
            tuple(want for seen in chosen if (want := _recorded(action, seen))),
            selected=True,
            request=Request(action, frozenset(seen.name for seen in chosen), timeout),
        )
        proposal = converge.propose(instance, wanted)
        outcome = converge.perform(
            instance, proposal, report, parallelism=parallelism, settle_seconds=settle_seconds
        )
        return Changed(outcome, already)


def _unmet_dependencies(
    action: RequestedAction, chosen: Iterable[ObservedServer], observed: Observed
) -> Iterable[str]:
    """Lines about servers that will run although a server that they depend on does not."""
    names = {seen.name for seen in chosen}
    running = {seen.name for seen in observed.servers.values() if seen.state == "Running"}
    running = running - names if action == "stop" else running | names
    for seen in observed.servers.values():
        needed = {address.partition("/")[2] for address in PLANNERS["Server"].follows(seen)}
        missing = needed & names if action == "stop" else needed - running
        if missing and seen.name in (running if action == "stop" else names):
            others = ", ".join(f"Server/{name}" for name in sorted(missing))
            yield f"Server/{seen.name}: runs without {others}, on which it depends"


def _is_already(action: RequestedAction, seen: ObservedServer) -> bool:
    if action == "stop":
        return not (seen.init or seen.populated)
    return action == "start" and seen.state == "Running"


def _recorded(action: RequestedAction, seen: ObservedServer) -> Object | None:
    """The server as it was last applied, in the requested state.

    None for a server without a record that is to be stopped; FailedError if it is to be started.
    """
    if seen.applied is None and action == "stop":
        return None
    if seen.applied is None:
        raise FailedError(
            f"Server/{seen.name}: {action}: its record is lost or was edited, so its spec is unknown",
            hint="apply its manifest",
        )
    found = applied.to_object(seen.name, seen.applied)
    assert isinstance(found.spec, Server)
    return replace(found, spec=replace(found.spec, state="Stopped" if action == "stop" else "Running"))


# -- destroy


def destroy_all(
    instance: Instance,
    report: Report,
    *,
    approve: Callable[[Proposal], bool] = lambda proposal: True,
    parallelism: int = converge.PARALLELISM,
    lock_timeout: float = 0.0,
    asks: bool = False,
) -> Outcome:
    """Remove all objects of this instance, of all sets, and the files of the instance."""
    noticed: set[str] = set()

    def notice_once(line: str) -> None:
        if line not in noticed:
            noticed.add(line)
            report.notice(line)

    def plan() -> Proposal:
        now = situation.look(instance)
        remove = frozenset(_removable(now.observed, instance.name, notice_once))
        wanted = Wanted(instance.name, f"{instance.name}/{EVERY_SET}", remove=remove)
        return converge.propose(instance, wanted)

    with converge.approved(instance, plan, report, approve, lock_timeout, asks) as (proposal, approve):
        return converge.perform(instance, proposal, report, approve=approve, parallelism=parallelism)


def losses(instance: Instance, plan: Plan) -> dict[str, int]:
    """{address: bytes on disk that a server has written} of the servers whose files are lost with the plan.

    Reads their upper directories. A server whose directory is damaged, which does not keep it from being
    removed, is left out.
    """
    found = {}
    for change in plan.objects:
        if change.kind == "Server" and change.action in ("delete", "replace"):
            try:
                found[change.address] = sizes.written_size(f"{instance.servers}/{change.name}/upper")
            except FailedError:
                continue
    return found


def _removable(observed: Observed, instance: str, notice: Callable[[str], None]) -> Iterable[str]:
    """The addresses of all objects of the instance, without those that an object that remains needs."""
    kept: set[str] = set()
    ours: list[str] = []
    for planner in PLANNERS.values():
        for name, seen in planner.observed(observed).items():
            address = f"{planner.kind}/{name}"
            if all(is_of(owner, instance) for owner in planner.owners(seen)):
                ours.append(address)
            else:
                notice(f"{address}: not removed: part of it has no owner mark of this instance")
                kept.update((*planner.holds(seen), *planner.follows(seen)))
    for address in ours:
        if address in kept:
            notice(f"{address}: not removed: used by an object that is not removed")
        else:
            yield address
