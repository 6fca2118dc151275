"""Running programs in a running server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from vsprov.engine.guests import foreground, request
from vsprov.engine.guests.request import Command
from vsprov.engine.look import observe
from vsprov.engine.look.machine import look
from vsprov.errors import FailedError
from vsprov.kernel import cgroup, process
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model.kinds.server import Server
from vsprov.model.suggest import not_found
from vsprov.plan.compare import applied
from vsprov.plan.observed import FROZEN, Machine, ObservedServer
from vsprov.store import images
from vsprov.store.instance import Instance

if TYPE_CHECKING:
    from vsprov.guest.wire import Groups

SHELLS = ("/bin/bash", "/bin/sh")


def run(
    instance: Instance,
    name: str,
    command: Sequence[str],
    *,
    user: str | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    tty: bool = False,
) -> int:
    """Run a command in a server until it ends; its exit code, 128 + N when signal N ended it.

    FailedError when the server is not running, EnterError when the command cannot be executed.
    """
    return _run(instance, *_running(instance, name), Command(tuple(command), user, cwd, env or {}, tty))


def shell(
    instance: Instance,
    name: str,
    *,
    user: str | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    tty: bool = False,
) -> int:
    """Run the first of `SHELLS` that the server has, as a login shell; the rest as `run`."""
    hierarchies, machine, seen = _running(instance, name)
    command = Command((), user, cwd, env or {}, tty)
    for number, program in enumerate(SHELLS):
        try:
            return _run(instance, hierarchies, machine, seen, replace(command, argv=(program, "-l")))
        except foreground.EnterError as error:
            if error.exit_code != 127 or number == len(SHELLS) - 1:
                raise
    raise AssertionError("there are shells to try")


def _running(instance: Instance, name: str) -> tuple[Hierarchies, Machine, ObservedServer]:
    process.require_root("entering a server")
    hierarchies = cgroup.find()
    machine = look(hierarchies, parent=instance.name)
    seen = observe.find(instance, hierarchies, machine, name)
    if seen is None:
        raise not_found("Server", name, observe.observe(instance, hierarchies, machine).servers)
    observe.refuse_foreign(seen, instance.name)
    if seen.init is None or seen.group is None:
        raise FailedError(f"Server/{name}: is not running", hint=f"vsprov start {name}")
    if seen.state == FROZEN:
        hint = f"vsprov start {name} thaws it"
        raise FailedError(f"Server/{name}: is frozen, and so would be what runs in it", hint=hint)
    if seen.applied is None:
        raise FailedError(
            f"Server/{name}: its record is lost or was edited, so its confinement is unknown",
            hint="apply its manifest",
        )
    return hierarchies, machine, seen


def _run(
    instance: Instance, hierarchies: Hierarchies, machine: Machine, seen: ObservedServer, command: Command
) -> int:
    assert seen.init and seen.group and seen.applied
    spec = applied.to_object(seen.name, seen.applied).spec
    assert isinstance(spec, Server)
    config = images.contents(instance, seen.applied["image"]).config
    group = seen.group
    attach = {hierarchies.directory(name, group.path) for name in group.controllers if name}
    groups: Groups = {
        "payload": f"{hierarchies.directory('', group.path)}/exec",
        "attach": sorted(attach),
    }
    try:
        with suppress(FileExistsError):
            os.mkdir(groups["payload"], 0o755)  # it stays: another command may be about to join it
    except FileNotFoundError:
        raise foreground.ended(seen.name) from None
    asked = request.for_command(command, spec, config, groups, seen.init, machine)
    return foreground.run(asked, seen.name)
