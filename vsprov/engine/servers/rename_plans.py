"""The plans that rename a server without a manifest, and the end of a rename whose command has died."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from vsprov.engine.apply import converge
from vsprov.engine.apply.converge import Proposal
from vsprov.engine.apply.report import Report
from vsprov.engine.look import situation
from vsprov.engine.look.observe import refuse_foreign
from vsprov.engine.servers.names import refuse_taken
from vsprov.engine.servers.record import record_of
from vsprov.engine.work import WorkOptions
from vsprov.errors import VsprovError
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.model.suggest import not_found
from vsprov.plan.builder import EVERY_SET, Wanted
from vsprov.plan.compare import applied
from vsprov.plan.observed import Observed, ObservedServer
from vsprov.plan.steps import Step, WriteApplied
from vsprov.store import renaming
from vsprov.store.instance import Instance
from vsprov.store.renaming import Renaming


def propose(instance: Instance, old: str, new: str, state: str | None = None) -> Proposal:
    """The plan that renames a server and starts it again if it runs, or brings it to another `state`."""
    now = situation.look(instance)
    seen = _find(now.observed, old, new)
    refuse_foreign(seen, instance.name)
    want = replace(_renamed(seen, old, new, state), renamed_from=old)
    proposal = converge.propose(instance, _wanted(instance, want))
    dependants = tuple(_dependants(now.observed, old, new))
    return proposal.with_steps(f"Server/{new}", lambda steps: (*dependants, *steps))


def unfinished(instance: Instance, begun: Renaming) -> Proposal:
    """The plan for what is left of a rename."""
    observed, state = situation.look(instance).observed, "Running" if begun.runs else None
    seen = observed.servers.get(begun.new)
    if seen is None or begun.old in observed.servers:
        return propose(instance, begun.old, begun.new, state)
    refuse_foreign(seen, instance.name)
    return converge.propose(instance, _wanted(instance, _renamed(seen, begun.old, begun.new, state)))


def _wanted(instance: Instance, want: Object) -> Wanted:
    return Wanted(instance.name, f"{instance.name}/{EVERY_SET}", (want,), selected=True)


def resume(instance: Instance, report: Report, work: WorkOptions) -> None:
    """Finish a rename whose command has died, under the lock. If that fails, it is reported and not tried
    again.
    """
    begun = renaming.read(instance)
    try:
        proposal = unfinished(instance, begun) if begun else None
        if begun and proposal and not proposal.plan.empty:
            report.notice(
                f"Server/{begun.old}: its rename to {begun.new} was interrupted, and is now finished"
            )
            converge.perform(instance, proposal, report, work=replace(work, settle=0.0, stop_within=None))
    except VsprovError as error:
        report.notice(f"Server/{begun.old if begun else ''}: {error}")
    renaming.forget(instance)


def _find(observed: Observed, old: str, new: str) -> ObservedServer:
    if old not in observed.servers:
        raise not_found("Server", old, observed.servers)
    seen = observed.servers[old]
    refuse_taken(f"Server/{old}: rename to {new}", observed, new)
    record_of(seen, "rename")
    return seen


def _renamed(seen: ObservedServer, old: str, new: str, state: str | None) -> Object:
    """The server as it was last applied, with its new name, in a `state`, or in the present one."""
    found = applied.to_object(seen.name, record_of(seen, "rename"))
    assert isinstance(found.spec, Server)
    into: Any = state or seen.wanted_state
    hostname = new if found.spec.hostname == old else found.spec.hostname
    return replace(found, name=new, spec=replace(found.spec, state=into, hostname=hostname))


def _dependants(observed: Observed, old: str, new: str) -> Iterator[Step]:
    """The steps that change the name in the records of the servers that depend on it. They come first: after
    a crash the same command does the rest.
    """
    for seen in observed.servers.values():
        record = seen.applied
        if record is None or all(one["name"] != old for one in record["spec"].get("dependsOn", ())):
            continue
        text, before = applied.to_text(_with_dependency(record, old, new)), applied.to_text(record)
        if seen.directory:
            yield WriteApplied(seen.name, text, before)
        if seen.group:
            yield applied.mark_step(seen.group.path, text, before)


def _with_dependency(record: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    needs = [{**one, "name": new} if one["name"] == old else one for one in record["spec"]["dependsOn"]]
    return {**record, "spec": {**record["spec"], "dependsOn": needs}}
