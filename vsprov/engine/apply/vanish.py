"""Wait until the links of stopped servers have gone with their network namespaces.

The kernel takes a namespace apart some time after its last process has ended, many at once (cleanup_net in
net/core/net_namespace.c). Removing the links one by one takes far longer.
"""

from __future__ import annotations

from vsprov.engine.run.context import ApplyContext
from vsprov.errors import reason
from vsprov.plan.network import rates

SECONDS = 5.0


def await_links(context: ApplyContext) -> None:
    """Wait for all links in `context.dying`, and remove those whose namespaces something else holds open.

    The links that limit what a server sends are not in its namespace; they are removed, too.
    """
    if not context.dying:
        return
    from vsprov.kernel.links import host

    assert context.observed.networks
    shapers = {rates.shaper(name): alias for name, alias in context.dying.items()}
    left = {name: context.dying[name] for name in host.wait_gone(context.dying, SECONDS)}
    left |= {name: alias for name, alias in shapers.items() if name in context.observed.networks.links}
    for name, alias in left.items():
        try:
            host.remove_link(name, alias)
        except OSError as error:
            context.notice(f"link {name}: remove: {reason(error)}")
    context.dying.clear()
