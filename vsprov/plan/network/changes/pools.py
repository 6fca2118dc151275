"""Rates that the servers of a pool share: the steps that change the intermediate device of a direction."""

from __future__ import annotations

from collections.abc import Iterator

from vsprov.model.values.units import format_rate
from vsprov.plan.network import naming
from vsprov.plan.network.desired.shares import DIRECTIONS
from vsprov.plan.network.state import HostLink
from vsprov.plan.network.steps import ChangePool, MakePool, RemoveShares
from vsprov.plan.plan import PathChange, change
from vsprov.plan.steps import Step


def widen(instance: str, wanted: HostLink, seen: HostLink | None) -> tuple[list[Step], list[PathChange]]:
    """The steps that give a pool its intermediate device and rate, and what differs."""
    pool = wanted.alias.rpartition("/")[2]
    way = next(way for way in DIRECTIONS if naming.pool_link_name(instance, pool, way) == wanted.name)
    path = f"Quota/{pool}: spec.network.{way}"
    assert wanted.ingress
    rate = format_rate(wanted.ingress)
    if seen is None or seen.alias != wanted.alias or seen.kind != wanted.kind:
        return [MakePool(wanted)], [change(path, None, rate, "live")]
    paths = []
    if seen.ingress != wanted.ingress:
        paths.append(change(path, format_rate(seen.ingress) if seen.ingress else None, rate, "live"))
    if not seen.up:
        paths.append(change(f"Quota/{pool}: status.links.{way}", "down", "up", "live"))
    return ([ChangePool(wanted, seen)] if paths else []), paths


def narrow(wanted: HostLink, seen: HostLink | None) -> Iterator[Step]:
    """The step that removes the shares of links that do not need them any more."""
    if seen is not None and seen.ingress and (left := sorted(seen.shares.keys() - wanted.shares.keys())):
        yield RemoveShares(wanted.name, tuple(left))
