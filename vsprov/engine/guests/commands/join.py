"""Running programs in a running server."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from vsprov.engine.guests import request
from vsprov.engine.guests.commands import foreground
from vsprov.engine.guests.request import Command
from vsprov.engine.look import observe
from vsprov.engine.look.machine import look
from vsprov.errors import FailedError
from vsprov.kernel import cgroup, process
from vsprov.kernel.cgroup import Hierarchies
from vsprov.model.kinds.server import Server
from vsprov.model.suggest import not_found
from vsprov.model.values.styles import is_system
from vsprov.plan.compare import applied
from vsprov.plan.observed import FROZEN, RESCUE, Machine, ObservedServer
from vsprov.store import images
from vsprov.store.instance import Instance

if TYPE_CHECKING:
    from vsprov.guest.wire import Enter, Groups

SHELLS = ("/bin/bash", "/bin/sh")
LOGGED_IN = 42  # an exit code that su(1) does not use itself
# Where commands run in a system server: its init moves logins to groups that it makes, and may do so only
# below its own (cgroup-v2.rst, "Delegation Containment").
IN_SYSTEM = "payload/.exec"


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
    notice: Callable[[str], None],
    *,
    user: str | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    tty: bool = False,
) -> int:
    """Run the first of `SHELLS` that the server has, as a login shell; the rest as `run`.

    In a system server, su(1) logs in, as it does for users of that server, if nothing but the user is chosen;
    not in one that was started for its repair, where that may be what fails. If su cannot log in, `notice` is
    told why, and the shell has no session.
    """
    server = _running(instance, name)
    command = Command((), user, cwd, env or {}, tty)
    login = user or "root"
    if _logs_in(server[2]) and not cwd and not (env or {}).keys() - {"TERM"}:
        if not login[0].isdigit() and ":" not in login:
            with suppress(_NoLogin):
                return _login(instance, *server, replace(command, user="0:0"), login, notice)
    for program in SHELLS:
        try:
            return _run(instance, *server, replace(command, argv=(program, "-l")))
        except foreground.EnterError as error:
            if error.exit_code != 127 or program is SHELLS[-1]:
                raise
    raise AssertionError("there are shells to try")


class _NoLogin(Exception):
    """Nobody can log in by su(1)."""


def _login(
    instance: Instance,
    hierarchies: Hierarchies,
    machine: Machine,
    seen: ObservedServer,
    command: Command,
    login: str,
    notice: Callable[[str], None],
) -> int:
    """Run the login shell of a user by su(1) until it ends: its exit code. _NoLogin if there is none.

    su(1) exits with 1, 126 or 127 if it cannot run the shell, and so may the shell. What tells one from the
    other is whether su runs another command. Input that is no terminal may have been read by then, so it is
    found out before.
    """

    def check(status: int) -> None:
        # For what is not the fault of the user's shell, ask with another, for that one may refuse (nologin).
        shell = ("-s", "/bin/sh") if status == 1 else ()
        argv = ("su", "-l", *shell, "-c", f"exit {LOGGED_IN}", login)
        asked = _request(instance, hierarchies, machine, seen, replace(command, argv=argv, tty=False))
        code, said = foreground.collect(asked, seen.name)
        if code != LOGGED_IN:
            why = said.strip().splitlines()[-1] if said.strip() else f"su exits with {code}"
            notice(f"Server/{seen.name}: {login} cannot log in: {why}; this shell has no session")
            raise _NoLogin

    try:
        if not command.tty:
            check(1)
        code = _run(instance, hierarchies, machine, seen, replace(command, argv=("su", "-l", login)))
        if command.tty and code in (1, 126, 127):
            check(code)
    except foreground.EnterError as error:
        if error.exit_code != 127:
            raise
        raise _NoLogin from None  # the server has no su
    return code


def _logs_in(seen: ObservedServer) -> bool:
    spec: Mapping[str, Any] = seen.applied["spec"] if seen.applied else {}
    return is_system(spec.get("init", {}).get("style", "")) and not seen.live.get(RESCUE)


def find(instance: Instance, name: str) -> tuple[Hierarchies, Machine, ObservedServer]:
    """A server of the instance, and the host. FailedError if there is no such server."""
    hierarchies = cgroup.find()
    machine = look(hierarchies, parent=instance.name)
    seen = observe.find(instance, hierarchies, machine, name)
    if seen is None:
        raise not_found("Server", name, observe.observe(instance, hierarchies, machine).servers)
    observe.refuse_foreign(seen, instance.name)
    return hierarchies, machine, seen


def _running(instance: Instance, name: str) -> tuple[Hierarchies, Machine, ObservedServer]:
    process.require_root("entering a server")
    hierarchies, machine, seen = find(instance, name)
    if seen.init is None or seen.group is None:
        raise FailedError(f"Server/{name}: is not running", hint=f"vsprov start {name}")
    if seen.state == FROZEN:
        hint = f"vsprov thaw {name}"
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
    return foreground.run(_request(instance, hierarchies, machine, seen, command), seen.name)


def _request(
    instance: Instance, hierarchies: Hierarchies, machine: Machine, seen: ObservedServer, command: Command
) -> Enter:
    assert seen.init and seen.group and seen.applied
    spec = applied.to_object(seen.name, seen.applied).spec
    assert isinstance(spec, Server)
    config = images.contents(instance, seen.applied["image"]).config
    group = seen.group
    attach = {hierarchies.directory(name, group.path) for name in group.controllers if name}
    home = hierarchies.directory("", group.path)
    groups: Groups = {
        "payload": f"{home}/{IN_SYSTEM if is_system(spec.init.style) else 'exec'}",
        "attach": sorted(attach),
    }
    try:
        with suppress(FileExistsError):
            os.mkdir(groups["payload"], 0o755)  # it stays: another command may be about to join it
    except FileNotFoundError:
        raise foreground.ended(seen.name) from None
    return request.for_command(command, spec, config, groups, seen.init, machine)
