"""Which servers no keeper watches, although something has to be done for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vsprov.engine.run import keeper
from vsprov.kernel import process
from vsprov.model.objects import few
from vsprov.plan.observed import Observed, ObservedServer, is_of
from vsprov.store.instance import Instance

SECONDS = 2.0  # for the keeper
WORK = ("logs", "restarts", "probes", "snapshots", "hooks")  # that a keeper does for servers


def unwatched(instance: Instance, observed: Observed) -> dict[str, tuple[str, ...]]:
    """{server: what nobody does for it} of those that run or wait for their restart while no keeper has them.

    A server that has just ended, after it was observed, is not one of them.
    """
    needing = {seen.name: seen for seen in observed.servers.values() if _needs(seen, instance.name)}
    if not needing:
        return {}
    kept = _kept(instance)
    return {
        name: tuple(_undone(seen))
        for name, seen in needing.items()
        if name not in kept and (seen.init is None or process.start_time(seen.init.pid) == seen.init.start)
    }


def notice(unwatched: Mapping[str, tuple[str, ...]]) -> str:
    """A line about these servers, of which there is at least one."""
    undone = [each for each in WORK if any(each in some for some in unwatched.values())]
    verb = "is" if len(unwatched) == 1 else "are"
    return (
        f"{few(unwatched)} {verb} not watched by a keeper ({', '.join(undone)}): "
        "any apply starts one, as do vsprov keeper run and its unit"
    )


def _needs(seen: ObservedServer, instance: str) -> bool:
    waits = seen.restarts is not None and seen.restarts.due
    return (seen.init is not None or waits) and all(is_of(owner, instance) for owner in seen.owners())


def _undone(seen: ObservedServer) -> Iterator[str]:
    spec = seen.applied["spec"] if seen.applied else {}
    if seen.init:
        yield "logs"
    if spec.get("restart", {}).get("policy", "no") != "no":
        yield "restarts"
    if seen.init and (spec.get("readiness") or spec.get("health")):
        yield "probes"
    if seen.init and spec.get("snapshots"):
        yield "snapshots"
    if seen.hooks_due:
        yield "hooks"


def _kept(instance: Instance) -> frozenset[str]:
    """The servers that the keeper has; none without a keeper that answers."""
    found = keeper.connect(instance, SECONDS)
    if found is None:
        return frozenset()
    try:
        status = found.status(SECONDS)
    except keeper.KeeperGone:
        return frozenset()
    finally:
        found.close()
    return frozenset((*status["kept"], *status["restarts"]))
