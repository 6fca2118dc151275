"""Steps for networks: links of the host, interfaces of servers, the firewall, sysctls, names."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable

from vsprov.engine.apply.register import carries_out
from vsprov.engine.networks import vanish
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Work
from vsprov.engine.servers.alive import running
from vsprov.errors import EXHAUSTED, StepError, reason
from vsprov.kernel import firewall, live_mount
from vsprov.kernel.links import host, interfaces, machine
from vsprov.plan.network.state import Interface
from vsprov.plan.network.steps import (
    ChangeFirewall,
    ChangeInterface,
    ChangeLink,
    ChangePool,
    MakeBridge,
    MakeInterface,
    MakePool,
    MountNames,
    RemoveInterface,
    RemoveLink,
    RemoveProxy,
    RemoveShares,
    SetSysctl,
    WriteNames,
)
from vsprov.store import names_files

# The kernel changes links one at a time (rtnl_lock); threads that wait for each other there take CPU time.
_links = threading.Lock()
_PAUSE = 0.01  # seconds


@carries_out(MakeBridge)
def make_bridge(context: ApplyContext, step: MakeBridge) -> None:
    host.make_bridge(step.link)


@carries_out(ChangeLink)
def change_link(context: ApplyContext, step: ChangeLink) -> None:
    host.change_link(step.link, step.before)


@carries_out(RemoveLink)
def remove_link(context: ApplyContext, step: RemoveLink) -> None:
    host.remove_link(step.link, step.alias)


@carries_out(MakePool)
def make_pool(context: ApplyContext, step: MakePool) -> None:
    host.make_pool(step.link)


@carries_out(ChangePool)
def change_pool(context: ApplyContext, step: ChangePool) -> None:
    host.change_pool(step.link, step.before)


@carries_out(RemoveShares)
def remove_shares(context: ApplyContext, step: RemoveShares) -> None:
    host.remove_shares(step.link, step.shares)


@carries_out(MakeInterface)
def make_interface(context: ApplyContext, step: MakeInterface) -> Work:
    """In a thread: other servers are prepared while the kernel creates the links."""

    def make() -> None:
        with _links:
            interfaces.make_interface(pid, step.interface)

    with running(context, step.server) as pid:
        yield from context.threads.queue(lambda: _once_free(step.interface, make))
    vanish.forget(context, step.interface)


def _once_free(interface: Interface, change: Callable[[], None]) -> None:
    """Make a change of a macvlan or ipvlan, whose addresses a server that has ended may still occupy.

    The kernel takes its network namespace apart later, and tells nobody outside of it: we try again.
    """
    deadline = time.monotonic() + vanish.SECONDS
    while True:
        try:
            return change()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or interface.kind == "veth":
                raise
            if time.monotonic() > deadline:
                raise _occupied(interface, error) from error
        time.sleep(_PAUSE)


def _occupied(interface: Interface, error: OSError) -> StepError:
    taken = f"{error.filename}: another {interface.kind} on {interface.parent} has this address"
    return StepError(taken, hint="a process may hold the namespace of an ended server open (lsns -t net)")


@carries_out(ChangeInterface)
def change_interface(context: ApplyContext, step: ChangeInterface) -> None:
    with running(context, step.server) as pid:
        _once_free(step.interface, lambda: interfaces.change_interface(pid, step.interface, step.before))


@carries_out(RemoveInterface)
def remove_interface(context: ApplyContext, step: RemoveInterface) -> None:
    """Of a server that does not run any more, remove what does not go with its network namespace."""
    one = step.interface
    if step.server in context.inits:
        with running(context, step.server) as pid:
            interfaces.remove_interface(pid, one)
        return
    if one.link and one.link not in context.dying:
        host.remove_link(one.link, one.alias)
    for address in one.host_routes if one.proxy else ():
        host.remove_proxy(address, one.proxy)


@carries_out(RemoveProxy)
def remove_proxy(context: ApplyContext, step: RemoveProxy) -> None:
    host.remove_proxy(step.address, step.link)


@carries_out(SetSysctl)
def set_sysctl(context: ApplyContext, step: SetSysctl) -> None:
    machine.set_sysctl(step.path, step.value)


@carries_out(ChangeFirewall)
def change_firewall(context: ApplyContext, step: ChangeFirewall) -> None:
    firewall.run(json.loads(step.commands))


@carries_out(MountNames)
def mount_names(context: ApplyContext, step: MountNames) -> None:
    folder, owner = f"{context.instance.servers}/{step.server}", context.bases[step.server]

    def mount(source: str, target: str) -> None:
        live_mount.mount_file(pid, source, target, owner, read_only=step.read_only)

    with running(context, step.server) as pid:
        try:
            names_files.add(folder, owner, mount)
        except OSError as error:
            raise StepError(f"{step.server}: mount {error.filename}: {reason(error)}") from error


@carries_out(WriteNames)
def write_names(context: ApplyContext, step: WriteNames) -> None:
    """A file that a process of the server has leased is left for the next apply."""
    for server, name, text, _ in step.files:
        folder = f"{context.instance.servers}/{server}"
        try:
            names_files.write(folder, name, text, context.hostname(server), context.bases.get(server))
        except BlockingIOError:
            context.notice(f"{server}: {names_files.TARGETS[name]} is in use; the next apply updates it")
        except OSError as error:
            message = f"{server}: update {names_files.TARGETS[name]}: write {folder}/{name}: {reason(error)}"
            raise StepError(message, hint=EXHAUSTED.get(error.errno or 0, "")) from error
