"""The console of a system server: a pty, whose master is with the holder of terminals while it runs."""

from __future__ import annotations

import os
from contextlib import ExitStack

from vsprov.engine.run import keeper
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.keeper import Keeper
from vsprov.errors import StepError, VsprovError, reason
from vsprov.keeper.protocol import FIFO
from vsprov.kernel import live_mount, proc, process, syscall
from vsprov.plan.observed import Observed, Process, is_of
from vsprov.store.instance import Instance


def start_holder(context: ApplyContext) -> Keeper:
    """The holder of the terminals of system servers; one that has died is replaced."""
    if context.terminals is not None and context.terminals.is_gone():
        context.terminals.close()
        context.terminals = None
    if context.terminals is None:
        context.terminals = keeper.connect(context.instance, program=keeper.TERMINALS)
    if context.terminals is None:
        context.terminals = keeper.start(context.instance, context.hierarchies, keeper.TERMINALS)
    return context.terminals


def hand_over(context: ApplyContext, server: str, init: Process, master: int) -> None:
    """Take the terminal of a server that waits at its gate, which has its master as the descriptor `master`.

    KeeperGone when the holder dies meanwhile.
    """
    pidfd = process.open_pidfd(init.pid, init.start)
    if pidfd is None:
        return  # it has ended, as its spawner reports
    with ExitStack() as opened:
        opened.callback(os.close, pidfd)
        try:
            taken = syscall.pidfd_getfd(pidfd, master)
        except OSError as error:
            raise StepError(f"take its console: {reason(error)}") from error
        opened.callback(os.close, taken)
        _hold(context, server, init, taken, pidfd)


def lost(instance: Instance, observed: Observed) -> dict[str, Process]:
    """The inits of the running system servers whose terminals nobody holds, by server: both holders were
    killed at once. Such a terminal has hung up, and cannot be opened any more.
    """
    booted = {
        _name(seen.init): (seen.name, seen.init)
        for seen in observed.servers.values()
        if seen.init and seen.boots and all(is_of(owner, instance.name) for owner in seen.owners())
    }
    if not booted:
        return {}
    holder = keeper.connect(instance, program=keeper.TERMINALS)
    try:
        held = holder.terminals() if holder else []
    except keeper.KeeperGone:
        return {}  # one of an earlier version does not list them
    finally:
        if holder:
            holder.close()
    return dict(booted[name] for name in booted.keys() - held)


def reopen(context: ApplyContext) -> None:
    """Give servers whose terminals are lost new ones, and say so."""
    for server, init in sorted(lost(context.instance, context.observed).items()):
        pidfd = process.open_pidfd(init.pid, init.start)
        if pidfd is None:
            continue
        with ExitStack() as opened:
            opened.callback(os.close, pidfd)
            try:
                master = live_mount.mount_console(init.pid, proc.first_id(init.pid) or 0)
                opened.callback(os.close, master)
                _hold(context, server, init, master, pidfd)
            except (OSError, VsprovError) as error:
                why = f"{error.filename}: {reason(error)}" if isinstance(error, OSError) else str(error)
                context.notice(f"Server/{server}: its console is lost until it restarts: {why}")
                continue
        context.notice(
            f"Server/{server}: its console had hung up and is a new one; what has the old one open, such as "
            "a log-in prompt, needs a restart"
        )


def _name(init: Process) -> str:
    """How the holder knows a terminal: not by the name of its server, which another may get meanwhile."""
    return f"{init.pid} {init.start}"


def _hold(context: ApplyContext, server: str, init: Process, master: int, pidfd: int) -> None:
    """Have the holder hold the master of a server's terminal."""
    try:
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        fifo = os.open(f"{context.instance.servers}/{server}/{FIFO}", flags)
    except OSError as error:
        raise StepError(f"take its console: {reason(error)}") from error
    try:
        start_holder(context).hold(_name(init), master, fifo, pidfd)
    finally:
        os.close(fifo)
