"""Steps that start and stop servers."""

from __future__ import annotations

import os
import signal
import time

from vsprov.engine.apply.register import carries_out
from vsprov.engine.aspects import freeze
from vsprov.engine.guests import host_sources, launch, request
from vsprov.engine.look import last_exit, roots
from vsprov.engine.run.context import SECONDS_TO_DIE, ApplyContext
from vsprov.engine.run.schedule import Readable, Work
from vsprov.engine.steps.groups import kill_group, not_killed
from vsprov.errors import StepError
from vsprov.kernel import cgroup, proc, process
from vsprov.model.kinds.server import Server
from vsprov.model.values.names import signal_number
from vsprov.model.values.units import MAX
from vsprov.plan.observed import Process
from vsprov.plan.steps import KillUnstarted, MarkInit, Release, Spawn, Stop
from vsprov.store.disk import marks

ZOMBIE_CHECKS, SECONDS_BETWEEN_CHECKS = 250, 0.02


@carries_out(Stop)
def stop(context: ApplyContext, step: Stop) -> Work:
    """Thaw it, send the stop signal, wait for the timeout, then kill all remaining processes.

    The kernel drops signals that a pid 1 does not handle (pid_namespaces(7)); then there is no wait.
    """
    init = context.inits.pop(step.server, None)
    group = context.groups[step.server]
    pidfd = process.open_pidfd(init.pid, init.start) if init else None
    thaw(context, group)
    if init is None or pidfd is None:
        yield from kill_group(context, group)
    else:
        number = signal_number(step.signal)
        try:
            if not process.receives(init.pid, number):
                context.unhandled[step.server] = step.signal
            elif number != signal.SIGKILL:
                process.send_signal(pidfd, number)
                yield Readable(pidfd, step.timeout / 1_000_000)
            # Init may be outside its group. When it exits, the kernel kills all of its pid namespace.
            process.send_signal(pidfd, signal.SIGKILL)
            yield from kill_group(context, group)
            if not (yield Readable(pidfd, SECONDS_TO_DIE)):
                raise not_killed(step.server, [init.pid])
            if how := process.exit_info(pidfd, init.pid, init.start):
                last_exit.record(context.directory("", group), how)
        finally:
            os.close(pidfd)
    marks.remove_mark(context.directory("", group), "init")
    context.stopped.add(group)
    if context.observed.networks:
        from vsprov.engine.networks import vanish

        vanish.expect(context, context.observed.networks, step.server)


def thaw(context: ApplyContext, group: str) -> None:
    """Thaw a server if it is frozen: frozen processes handle no signals."""
    if cgroup.frozen(f"{context.directory('', group)}/payload"):
        freeze.thaw_group(context, group)


def wait_for_zombies(context: ApplyContext, group: str) -> Work:
    """Wait up to five seconds while zombies of a stopped server take up more than an eighth of its pids.max.

    Zombies are charged to pids.max until their parent, by now the host's init, has waited for them. On some
    hosts that takes a while, and the kernel sends no event for it.
    """
    directory = context.directory("pids", group)
    limit = cgroup.read(f"{directory}/pids.max") or MAX
    if limit == MAX:
        return
    timer = os.eventfd(0)  # never readable
    try:
        for _ in range(ZOMBIE_CHECKS):
            if 8 * int(cgroup.read(f"{directory}/pids.current") or 0) <= int(limit):
                return
            yield Readable(timer, SECONDS_BETWEEN_CHECKS)
    finally:
        os.close(timer)


@carries_out(Spawn)
def spawn(context: ApplyContext, step: Spawn) -> Work:
    server, group = context.wanted[f"Server/{step.server}"], context.groups[step.server]
    if group in context.stopped:
        yield from wait_for_zombies(context, group)
    thaw(context, group)  # otherwise the new process would never begin to run
    with host_sources.opening() as sources:
        ready = yield from launch.spawn(context, request.for_server(context, server, group, sources))
    context.spawned[step.server] = ready["id"]
    context.inits[step.server] = Process(ready["pid"], ready["start"])
    for path in map(sources.name, ready["unmapped"]):
        context.notice(
            f"{step.server}: the file system of {path} does not support idmapped mounts; "
            "its files appear as owned by nobody"
        )


@carries_out(KillUnstarted)
def kill_unstarted(context: ApplyContext, step: KillUnstarted) -> Work:
    context.spawned.pop(step.server, None)
    if context.inits.pop(step.server, None):
        yield from kill_group(context, context.groups[step.server])


@carries_out(MarkInit)
def mark_init(context: ApplyContext, step: MarkInit) -> None:
    init, group = context.inits[step.server], context.groups[step.server]
    home = context.directory("", group)
    context.oom_kills[step.server] = cgroup.oom_kills(context.directory("memory", group))
    last_exit.forget(home)
    spec = context.wanted[f"Server/{step.server}"].spec
    assert isinstance(spec, Server)
    roots.write(context.instance, home, step.server, context.contents_for(step.server, spec.image).layers)
    context.keep(step.server, init)
    marks.write_mark(home, "init", f"{init.pid} {init.start} {proc.boot_id()}")


@carries_out(Release)
def release(context: ApplyContext, step: Release) -> Work:
    try:
        yield from launch.release(context, context.spawned[step.server])
    except StepError:
        context.inits.pop(step.server, None)
        marks.remove_mark(context.directory("", context.groups[step.server]), "init")
        raise
    context.released[step.server] = time.monotonic()
