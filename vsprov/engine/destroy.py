"""Remove single objects or a whole instance, and what is lost with the servers of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vsprov.engine.apply import converge
from vsprov.engine.apply.converge import Outcome, Proposal
from vsprov.engine.apply.exclusive import approved
from vsprov.engine.apply.report import Report
from vsprov.engine.desired.wanted import KEEP_VOLUMES, Volumes
from vsprov.engine.look import situation
from vsprov.engine.work import DEFAULT, WorkOptions
from vsprov.errors import FailedError
from vsprov.model.suggest import not_found
from vsprov.plan.builder import EVERY_SET, Wanted
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.plan.observed import Observed, is_of
from vsprov.plan.plan import Plan
from vsprov.store.instance import Instance
from vsprov.store.layers import sizes
from vsprov.store.space.disks import Disks
from vsprov.store.volumes import directory
from vsprov.store.written import snapshots


def destroy_all(
    instance: Instance,
    report: Report,
    volumes: Volumes = KEEP_VOLUMES,
    *,
    approve: Callable[[Proposal], bool] = lambda proposal: True,
    work: WorkOptions = DEFAULT,
    asks: bool = False,
) -> Outcome:
    """Remove all objects of this instance, of all sets, and the files of the instance; volumes are kept,
    except for `volumes`.
    """
    noticed: set[str] = set()

    def notice_once(line: str) -> None:
        if line not in noticed:
            noticed.add(line)
            report.notice(line)

    def plan() -> Proposal:
        now = situation.look(instance)
        remove = frozenset(_removable(now.observed, instance.name, notice_once))
        wanted = Wanted(
            instance.name,
            f"{instance.name}/{EVERY_SET}",
            remove=remove,
            volumes=volumes.empty,
            delete_data=volumes.with_data,
        )
        return converge.propose(instance, wanted)

    with approved(instance, plan, report, approve, work, asks) as (proposal, approve):
        return converge.perform(instance, proposal, report, approve=approve, work=work)


def delete(
    instance: Instance,
    addresses: Iterable[str],
    report: Report,
    *,
    approve: Callable[[Proposal], bool] = lambda proposal: True,
    work: WorkOptions = DEFAULT,
    asks: bool = False,
) -> Outcome:
    """Remove single objects of this instance, of any set, volumes with their data. FailedError if there is
    none of a name.
    """
    remove = frozenset(addresses)

    def plan() -> Proposal:
        observed = situation.look(instance).observed
        for address in sorted(remove):
            kind, _, name = address.partition("/")
            if name not in (known := PLANNERS[kind].observed(observed)):
                raise not_found(kind, name, known)
        wanted = Wanted(
            instance.name,
            f"{instance.name}/{EVERY_SET}",
            selected=True,
            remove=remove,
            delete_data=frozenset(each.partition("/")[2] for each in remove if each.startswith("Volume/")),
        )
        return converge.propose(instance, wanted)

    with approved(instance, plan, report, approve, work, asks) as (proposal, approve):
        return converge.perform(instance, proposal, report, approve=approve, work=work)


def losses(instance: Instance, plan: Plan, *, of_servers: bool = True) -> dict[str, int]:
    """{address: bytes on disk} of the volumes that the plan removes, and `of_servers` whose files are lost
    with it, as far as they have written them.

    Snapshots count. Reads their directories. A server whose directory is damaged, which does not keep it from
    being removed, is left out.
    """
    found = {}
    for change in plan.objects:
        if of_servers and change.kind == "Server" and change.action in ("delete", "replace"):
            folder = f"{instance.servers}/{change.name}"
            try:
                limited = Disks().of(folder, recorded=False)
                written = limited.used if limited else sizes.written_size(f"{folder}/upper")
                found[change.address] = written + snapshots.size(instance, change.name)
            except FailedError:
                continue
        elif change.kind == "Volume" and change.action == "delete":
            found[change.address] = directory.data_size(instance, change.name)
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
