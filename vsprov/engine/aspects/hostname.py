"""The hostname of a running server."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from vsprov.engine.apply.register import carries_out
from vsprov.engine.aspects.observer import RunningServer, observes
from vsprov.kernel import namespace
from vsprov.plan.aspects.hostname import SetHostname
from vsprov.store import hosts_file

if TYPE_CHECKING:
    from vsprov.engine.run.context import ApplyContext


@observes("hostname")
def hostname(server: RunningServer) -> str | None:
    """The hostname that the server has now."""
    return namespace.hostname(server.pid)


@carries_out(SetHostname)
def set_hostname(context: ApplyContext, step: SetHostname) -> None:
    namespace.set_hostname(context.inits[step.server].pid, step.hostname)
    with suppress(FileNotFoundError):  # started by a version without it
        hosts_file.update(f"{context.instance.servers}/{step.server}/{hosts_file.NAME}", step.hostname)
