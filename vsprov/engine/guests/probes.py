"""What the keeper needs to probe a server: the way into it for commands, and the socket for its reports."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from vsprov.engine.guests import request
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.keeper import sealed
from vsprov.errors import FailedError, reason
from vsprov.keeper import protocol
from vsprov.kernel import namespace
from vsprov.model.kinds.server import Server
from vsprov.plan.compare import applied
from vsprov.plan.observed import Process
from vsprov.store import images

if TYPE_CHECKING:
    from vsprov.guest.wire import Groups


def descriptors(
    context: ApplyContext, name: str, init: Process, spec: Mapping[str, Any], opened: ExitStack
) -> Mapping[str, int]:
    """The descriptors for the probes of a server, see `keeper.protocol.Keep`; `spec` is `fields.kept`."""
    fds = {}
    try:
        if any(probe and probe["exec"] for probe in (spec["readiness"], spec["health"])):
            message: Any = _entry(context, name, init)
            fds["entry"] = sealed(protocol.encode(message))
            opened.callback(os.close, fds["entry"])
        if spec["readiness"] and spec["readiness"]["notify"]:
            listener = _listener(context.instance.name, name, init)
            if listener is not None:
                fds["notify"] = opened.enter_context(listener).fileno()
    except OSError as error:
        raise FailedError(f"Server/{name}: prepare its probes: {reason(error)}") from error
    return fds


def _entry(context: ApplyContext, name: str, init: Process) -> Any:
    """The request to join a server, without a command; creates the group for commands in it."""
    group = context.groups[name]
    groups: Groups = {
        "payload": f"{context.directory('', group)}/exec",
        "attach": sorted(
            directory
            for directory in {context.directory(each, group) for each in context.hierarchies.v1}
            if os.path.isdir(directory)
        ),
    }
    with suppress(FileExistsError, FileNotFoundError):  # it is being removed
        os.mkdir(groups["payload"], 0o755)
    spec, config = _running(context, name)
    return request.for_command(request.Command(()), spec, config, groups, init, context.machine)


def _running(context: ApplyContext, name: str) -> tuple[Server, Mapping[str, Any]]:
    """The spec of a server, and the configuration of its image: those that this apply gives it, or else those
    of its record.
    """
    if name in context.kept:
        spec = context.wanted[f"Server/{name}"].spec
        assert isinstance(spec, Server)
        return spec, context.contents_for(name, spec.image).config
    record = context.observed.servers[name].applied
    assert record is not None  # without one it has no probes
    spec = applied.to_object(name, record).spec
    assert isinstance(spec, Server)
    return spec, images.contents(context.instance, record["image"]).config


def _listener(instance: str, name: str, init: Process) -> socket.socket | None:
    """The socket that a server reports to; datagrams wait in it until the keeper reads them.

    None if the server has ended, or its address is bound: the keeper has the socket already, or else a
    process of the server has bound it while there was no keeper.
    """
    try:
        with namespace.net(init.pid):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.bind(f"\0{request.notify_address(instance, name)}")
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return listener
