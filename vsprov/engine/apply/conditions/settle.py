"""Watch the servers that an apply has started for a moment: a command that ends at once is a failed start."""

from __future__ import annotations

import time

from vsprov.engine.look import last_exit
from vsprov.engine.run.context import ApplyContext
from vsprov.kernel import cgroup, syscall
from vsprov.kernel.process import ExitInfo
from vsprov.model.kinds.server import Server


def watch(context: ApplyContext, seconds: float) -> None:
    """Wait until every started server has run for so long, or has ended: all at once.

    The spawner is the parent of their inits and reports how they end.
    """
    if not context.spawner or not context.released:
        return
    collect(context)
    while running := [name for name in context.released if context.spawned[name] not in context.exits]:
        left = max(context.released[name] for name in running) + seconds - time.monotonic()
        if left <= 0:
            return
        syscall.is_ready(context.spawner.fileno(), left)
        collect(context)


def collect(context: ApplyContext) -> int:
    """Take the exits that the spawner has reported; their number so far, without steps of builds."""
    for event in context.spawner.events() if context.spawner else ():
        context.exits[event["id"]] = event
    return sum(number in context.exits for number in context.spawned.values())


def record(context: ApplyContext) -> dict[str, str]:
    """Record the last exits of servers that have ended. Returns {server: how it ended}, without those that
    were meant to end and did so with exit code 0.
    """
    found = {name: record_one(context, name) for name in context.spawned}
    return {name: how for name, how in found.items() if how}


def record_one(context: ApplyContext, name: str) -> str:
    """Record the last exit of one server, if we have started it and it has ended. Returns how it ended; "" if
    it has not, or was meant to end and did so with exit code 0.
    """
    event = context.exits.get(context.spawned.get(name, -1))
    if event is None or event["event"] != "exited":
        return ""
    how = ExitInfo(event.get("code"), event.get("signal"))
    home = context.directory("", context.groups[name])
    kills = cgroup.oom_kills(context.directory("memory", context.groups[name]))
    last_exit.record(home, how, oom=kills > context.oom_kills[name])
    spec = context.wanted[f"Server/{name}"].spec
    once = isinstance(spec, Server) and spec.init.oneshot and how.code == 0
    return "" if once else _explain(how, home)


def _explain(how: ExitInfo, home: str) -> str:
    seen = last_exit.read(home)
    return f"{how}, after the kernel killed for lack of memory" if seen and seen.oom else str(how)
