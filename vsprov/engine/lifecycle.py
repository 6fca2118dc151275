"""Start, stop and restart servers as they were last applied.

The wanted state does not change, so the next plan shows a server that was stopped here as drift. A server
starts with the current version of its image in the store, which is recorded. Any other drift of the server is
repaired when it starts.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from vsprov.engine.apply import command, converge
from vsprov.engine.apply.converge import Outcome, Proposal
from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.report import Report
from vsprov.engine.desired.choice import Choice
from vsprov.engine.look import situation
from vsprov.engine.look.observe import Since
from vsprov.engine.run.waits import Waits
from vsprov.engine.work import DEFAULT, WorkOptions
from vsprov.errors import FailedError
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.builder import EVERY_SET, Request, RequestedAction, Wanted
from vsprov.plan.compare import applied
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.plan.observed import FROZEN, RESCUE, Observed, ObservedServer
from vsprov.store.instance import Instance


class Changed(Struct, frozen=True):
    """The `outcome` for servers that had to change, and the names of those `already` in that state."""

    outcome: Outcome
    already: tuple[str, ...]


def change_state(
    instance: Instance,
    action: RequestedAction,
    choice: Choice,
    report: Report,
    *,
    timeout: int | None = None,
    work: WorkOptions = DEFAULT,
    rescue: bool = False,
) -> Changed:
    """Start, stop or restart servers, except those that are already in the requested state.

    `timeout`, in microseconds, overrides the stop timeout of each server. `rescue`: start servers, which must
    not run, for their repair. FailedError, before any change, if a server cannot be started. The lock is free
    while conditions of dependencies are waited for.
    """

    def propose(chosen: Iterable[ObservedServer]) -> Proposal:
        chosen = tuple(chosen)
        wanted = Wanted(
            instance.name,
            f"{instance.name}/{EVERY_SET}",
            tuple(want for seen in chosen if (want := recorded(action, seen))),
            selected=True,
            request=Request(action, frozenset(seen.name for seen in chosen), timeout, rescue=rescue),
        )
        return converge.propose(instance, wanted)

    with exclusive(instance, work, report):
        now = situation.look(instance)
        chosen = choice.of(now.observed, instance.name)
        already = tuple(seen.name for seen in chosen if is_already(action, seen, rescue))
        chosen = [seen for seen in chosen if seen.name not in already]
        for line in unmet_dependencies(action, chosen, now.observed):
            report.notice(line)
        outcome = converge.perform(instance, propose(chosen), report, work=work, waits=Waits())

    def rest() -> Proposal:
        servers = situation.look(instance).observed.servers
        return propose(servers[seen.name] for seen in chosen if seen.name in servers)

    return Changed(command.finished(instance, outcome, rest, report, work), already)


def restart_again(
    instance: Instance,
    chosen: Iterable[ObservedServer],
    observed: Observed,
    report: Report,
    work: WorkOptions,
) -> Outcome:
    """Restart servers for the keeper, under the lock, each with the image that it ran with. Of the servers
    that were `observed` under the lock, only they are looked at again.

    FailedError, before any change, if one of them cannot be started.
    """
    chosen = tuple(chosen)
    since = Since(observed, frozenset(seen.name for seen in chosen))
    wanted = Wanted(
        instance.name,
        f"{instance.name}/{EVERY_SET}",
        tuple(want for seen in chosen if (want := recorded("restart", seen))),
        selected=True,
        request=Request("restart", frozenset(seen.name for seen in chosen)),
        pinned={seen.name: seen.applied["image"] for seen in chosen if seen.applied},
        automatic=True,
    )
    return converge.perform(instance, converge.propose(instance, wanted, since), report, work=work)


def unmet_dependencies(
    action: RequestedAction, chosen: Iterable[ObservedServer], observed: Observed
) -> Iterable[str]:
    """Lines about servers that will run although a server that they depend on neither runs nor is done."""
    names = {seen.name for seen in chosen}
    done = {seen.name for seen in observed.servers.values() if not seen.init and seen.is_ready}
    running = {seen.name for seen in observed.servers.values() if seen.init}
    running = running - names if action == "stop" else running | names
    for seen in observed.servers.values():
        needed = {address.partition("/")[2] for address in PLANNERS["Server"].follows(seen)}
        missing = (needed & names if action == "stop" else needed - running) - done
        if missing and seen.name in (running if action == "stop" else names):
            others = ", ".join(f"Server/{name}" for name in sorted(missing))
            yield f"Server/{seen.name}: runs without {others}, on which it depends"


def runs(seen: ObservedServer) -> bool:
    """Whether a server runs, or waits for the keeper to start it again."""
    return bool(seen.init or seen.populated or (seen.restarts is not None and seen.restarts.due))


def is_already(action: RequestedAction, seen: ObservedServer, rescue: bool = False) -> bool:
    """Whether there is nothing to do for a request; one to stop is remembered until the server is started.

    FailedError for a server that is to be started for its repair, and runs as usual.
    """
    rescued = bool(seen.live.get(RESCUE))
    if rescue and seen.init and not rescued:
        raise FailedError(
            f"Server/{seen.name}: start --rescue: it is running", hint=f"vsprov stop {seen.name}"
        )
    if action == "stop":
        return not runs(seen) and (bool(seen.stopped) or not seen.directory)
    return action == "start" and seen.init is not None and seen.state != FROZEN and rescued == rescue


def recorded(action: RequestedAction, seen: ObservedServer) -> Object | None:
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
