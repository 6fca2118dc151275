"""Networks in `get`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsprov.engine.kinds.view import KindView, View, register
from vsprov.plan.observed import set_of

if TYPE_CHECKING:  # loaded only if there are networks
    from vsprov.plan.network.state import ObservedNetwork


def status(name: str, view: View) -> dict[str, Any]:
    """The status of a network: its bridge, the addresses of the host in it, and its servers."""
    networks = view.shown.observed.networks
    assert networks is not None
    seen = networks.networks[name]
    spec = seen.applied["spec"] if seen.applied else {}
    link = seen.link or networks.links.get(spec.get("bridge") or "")
    return {
        "link": link.name if link else None,
        "up": link.up if link else None,
        "addresses": sorted(link.addresses) if link else [],
        "servers": connected(name, view),
        "set": set_of(seen.owner),
    }


def connected(network: str, view: View) -> list[str]:
    """The names of the servers that were applied with an interface on a network."""
    return sorted(
        server.name
        for server in view.shown.observed.servers.values()
        if server.applied
        and any(one["network"] == network for one in server.applied["spec"].get("interfaces", ()))
    )


def metadata(seen: ObservedNetwork) -> dict[str, Any]:
    """The recorded labels and annotations, without empty ones."""
    recorded = seen.applied or {}
    return {key: dict(recorded[key]) for key in ("labels", "annotations") if recorded.get(key)}


register(KindView("Network", status, metadata))
