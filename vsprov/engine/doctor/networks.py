"""What networks require: kinds of links, queueing disciplines, nftables; and rulesets that are in the way."""

from __future__ import annotations

from collections.abc import Iterator

from vsprov.engine.doctor.finding import Finding
from vsprov.kernel import firewall
from vsprov.kernel.links import probe
from vsprov.store.instance import Instance

# A kind of links or queueing disciplines, and what does not work without it.
KINDS = {
    "bridge": "no networks of type bridge",
    "veth": "no networks of type bridge or routed",
    "macvlan": "no networks of type macvlan",
    "ipvlan": "no networks of type ipvlan",
    "tbf": "network.egress and network.ingress are not enforced",
    "ifb": "network.egress is not enforced",
    "ingress": "network.egress is not enforced",
    "htb": "network.egress and network.ingress of pools are not enforced",
}


def networks(instance: Instance) -> Iterator[Finding]:
    lacking = probe.lacking(KINDS)
    for kind, cost in KINDS.items():
        why = lacking.get(kind)
        yield (
            Finding(f"network {kind}", "degraded", why, cost) if why else Finding(f"network {kind}", "ok", "")
        )
    found = firewall.observe(instance.name)
    if why := found.lacking:
        hint = "no networks of type bridge or routed; apt install nftables"
        yield Finding("nftables", "degraded", why, hint)
        return
    yield Finding("nftables", "ok", "")
    for line in found.foreign:
        yield Finding("forwarding", "degraded", line, "servers reach only servers of their own network")
