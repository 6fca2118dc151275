"""The interface of a build step on a network: it exists as long as the step runs.

The step has an address of the network and reaches what servers of it reach, but it has no name, and neither
ports nor a firewall of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vsprov.engine.run.context import ApplyContext
from vsprov.errors import StepError
from vsprov.kernel import firewall
from vsprov.kernel.links import interfaces
from vsprov.model.kinds.network import Dns, Network
from vsprov.plan.network import naming, ruleset
from vsprov.plan.network.desired import addresses, members, names
from vsprov.plan.network.desired.addresses import Place
from vsprov.plan.network.desired.interfaces import DEFAULT_MTU
from vsprov.plan.network.state import Interface, Member, Route, Tables

NAME = "eth0"


def resolver(context: ApplyContext) -> str:
    """The content of /etc/resolv.conf of a step: the name servers that servers of the host use."""
    seen = context.observed.networks
    assert seen is not None
    return names.resolv_conf(Dns(), seen.resolver)


@contextmanager
def connected(context: ApplyContext, image: str, network: str, pid: int) -> Iterator[None]:
    """Connect the step of an image, whose first process waits at its gate, to a network during the block."""
    spec = context.network(network)
    if spec.type != "bridge":
        raise StepError(
            f"connect the step to network {network}: its type is {spec.type}",
            hint="build steps can only use networks of type bridge, or host",
        )
    one = _interface(context, image, network, spec)
    with_step, without = (_tables(context, network, spec, found) for found in ((one,), ()))
    opening, closing, _, _ = ruleset.changes(with_step, without)
    firewall.run(opening)
    try:
        interfaces.make_interface(pid, one)
        context.dying[one.link] = one.alias
        yield
    finally:
        firewall.run(closing)
        context.given.difference_update(one.addresses)


def _interface(context: ApplyContext, image: str, network: str, spec: Network) -> Interface:
    """The wanted interface, with addresses that no server has or is about to get."""
    instance, owner = context.instance.name, f".build-{image}"
    gateways = [addresses.gateway(text) for text in spec.subnets]
    recorded = (seen.applied or {} for seen in context.observed.servers.values())
    known = [text for each in recorded for texts in each.get("addresses", {}).values() for text in texts]
    place = Place(owner, NAME, network, ("auto",), spec.subnets)
    found = addresses.assign([place], {"others": [*gateways, *known, *context.given]})
    for refusal in found.refusals:
        raise StepError(f"connect the step to network {network}: {refusal.message}", hint=refusal.hint)
    given = found.addresses[owner][NAME]
    context.given.update(given)
    routes = [Route("default", text, 6 if ":" in text else 4) for text in gateways] if spec.gateway else []
    return Interface(
        NAME,
        "veth",
        naming.mac((), instance, owner, NAME),
        spec.mtu or DEFAULT_MTU,
        frozenset(given),
        frozenset(routes),
        link=naming.link_name(instance, owner, NAME),
        alias=naming.server_alias(instance, owner),
        parent=spec.bridge or naming.bridge_name(instance, network),
        port_isolated=spec.isolated,
    )


def _tables(context: ApplyContext, network: str, spec: Network, found: tuple[Interface, ...]) -> Tables:
    """The tables of an instance with nothing but the network and the step."""
    own = tuple(
        Member(each.alias, each.link, network, each.mac, tuple(map(addresses.without_prefix, each.addresses)))
        for each in found
    )
    links = {network: spec.bridge or naming.bridge_name(context.instance.name, network)}
    return members.tables(context.instance.name, {network: spec}, links, own)
