"""The section `boot` of a server: what happens to it when the host starts."""

from __future__ import annotations

from vsprov.model.fields import Section, value

MOST = 1000


class Boot(Section):
    """Whether `vsprov boot` starts the server, and when."""

    autostart: bool = value(
        True,
        doc="Start the server when the host starts, unless its state is Stopped.",
    )
    priority: int = value(
        0,
        doc="Servers with a higher priority start earlier when the host starts, and stop later when it shuts "
        "down. A server that others depend on has at least their priority.",
        schema={"minimum": -MOST, "maximum": MOST},
    )
