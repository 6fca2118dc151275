"""Links of stopped servers: they go with the network namespaces, and an apply waits for that.

The kernel takes a namespace apart some time after its last process has ended, many at once (cleanup_net in
net/core/net_namespace.c). Removing the links one by one takes far longer.
"""

from __future__ import annotations

from vsprov.engine.run.context import ApplyContext
from vsprov.errors import reason
from vsprov.kernel.links import host
from vsprov.plan.network import rates
from vsprov.plan.network.state import Interface, SeenNetworks

SECONDS = 5.0


def expect(context: ApplyContext, seen: SeenNetworks, server: str) -> None:
    """Note the links of a server that was stopped. What limits what it sends is not in its namespace."""
    for one in seen.interfaces.get(server, {}).values():
        if one.link and one.alias:
            context.dying[one.link] = one.alias
            if (shaper := rates.shaper(one.link)) in seen.links:
                context.orphans[shaper] = one.alias


def forget(context: ApplyContext, made: Interface) -> None:
    """An interface was created whose links have the names of those of a stopped server."""
    context.dying.pop(made.link, None)
    if made.is_shaped:
        context.orphans.pop(rates.shaper(made.link), None)


def await_links(context: ApplyContext) -> None:
    """Wait for all links in `context.dying`, and remove those whose namespaces something else holds open."""
    left = {name: context.dying[name] for name in host.wait_gone(context.dying, SECONDS)}
    for name, alias in {**left, **context.orphans}.items():
        try:
            host.remove_link(name, alias)
        except OSError as error:
            context.notice(f"link {name}: remove: {reason(error)}")
