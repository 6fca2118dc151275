"""Steps that start and stop servers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from typing import Any

from msgspec.structs import replace

from vsprov.engine.apply import keeping
from vsprov.engine.apply.register import carries_out
from vsprov.engine.aspects import freeze, rescue
from vsprov.engine.guests import host_sources, launch, request
from vsprov.engine.look import last_exit, restarts, roots
from vsprov.engine.run.context import SECONDS_TO_DIE, ApplyContext
from vsprov.engine.run.schedule import Readable, Wait, Work
from vsprov.engine.run.waits import SECONDS_TO_NOTICE
from vsprov.engine.steps.groups import kill_group, not_killed
from vsprov.errors import StepError
from vsprov.kernel import cgroup, proc, process
from vsprov.model import fields
from vsprov.model.kinds.server import Server
from vsprov.model.objects import few
from vsprov.model.rescue import rescued
from vsprov.model.values.names import signal_number
from vsprov.model.values.units import MAX
from vsprov.plan.observed import Process
from vsprov.plan.steps import InformKeeper, KillUnstarted, MarkInit, Release, Spawn, Stop
from vsprov.store.disk import marks
from vsprov.store.space.disks import has_image, has_subvolume

ZOMBIE_CHECKS, SECONDS_BETWEEN_CHECKS = 250, 0.02


@carries_out(Stop)
def stop(context: ApplyContext, step: Stop) -> Work:
    """Thaw it, send the stop signal, wait for the timeout, then kill all remaining processes.

    The kernel drops signals that a pid 1 does not handle (pid_namespaces(7)); then there is no wait.
    """
    init = context.inits.pop(step.server, None)
    context.released.pop(step.server, None)
    group = context.groups[step.server]
    pidfd = process.open_pidfd(init.pid, init.start) if init else None
    thaw(context, group)
    if init is None or pidfd is None:
        yield from kill_group(context, group)
        if init:  # it has ended since the plan, for example by its preStop hook
            last_exit.record_stop(context.directory("", group), None, context.verb, "", step.failed)
    else:
        try:
            killed = yield from _ask_to_end(context, step, init.pid, pidfd)
            # Init may be outside its group. When it exits, the kernel kills all of its pid namespace.
            process.send_signal(pidfd, signal.SIGKILL)
            yield from kill_group(context, group)
            if not (yield Readable(pidfd, SECONDS_TO_DIE)):
                raise not_killed(step.server, [init.pid])
            how = process.exit_info(pidfd, init.pid, init.start)
            last_exit.record_stop(context.directory("", group), how, context.verb, killed, step.failed)
        finally:
            os.close(pidfd)
    if step.server not in context.restarting:  # else it has ended, but not on purpose
        marks.remove_mark(context.directory("", group), "init")
        restarts.forget(context.directory("", group))
    context.stopped.add(group)
    if context.observed.networks:
        from vsprov.engine.networks import vanish

        vanish.expect(context, context.observed.networks, step.server)


def _ask_to_end(context: ApplyContext, step: Stop, pid: int, pidfd: int) -> Generator[Wait, Any, str]:
    """Send the stop signal and wait. Returns why the server did not end by it, "" if nothing failed."""
    number = signal_number(step.signal)
    if not process.receives(pid, number):
        if process.is_ending(pid):  # by itself, or by its preStop hook
            return ""
        context.unhandled[step.server] = step.signal
        return f"no handler for SIG{step.signal}"
    if number == signal.SIGKILL:
        return ""
    process.send_signal(pidfd, number)
    seconds = step.timeout / 1_000_000
    if context.stop_by is not None:
        seconds = max(0.0, min(seconds, context.stop_by - time.monotonic()))
    if (yield from _wait_for_end(context, step.server, pidfd, seconds)):
        return ""
    killed = f"{_elapsed(seconds)} after SIG{step.signal}"
    context.overdue[step.server] = killed
    return killed


def _wait_for_end(
    context: ApplyContext, server: str, pidfd: int, seconds: float
) -> Generator[Wait, Any, bool]:
    """Wait until init has ended; whether it has in time. A notice says for which servers that takes long."""
    context.stopping[server] = False
    try:
        if (yield Readable(pidfd, min(seconds, SECONDS_TO_NOTICE))):
            return True
        if seconds <= SECONDS_TO_NOTICE:
            return False
        if not context.stopping[server]:
            unnamed = [name for name, named in context.stopping.items() if not named]
            context.notice(f"waiting for {few(unnamed)} to stop")
            context.stopping.update(dict.fromkeys(unnamed, True))
        return bool((yield Readable(pidfd, seconds - SECONDS_TO_NOTICE)))
    finally:
        del context.stopping[server]


def _elapsed(seconds: float) -> str:
    return f"{round(seconds, 1):g}s" if seconds else "right"


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
    if step.rescue:
        server = replace(server, spec=rescued(_spec(context, step.server)))
    if group in context.stopped:
        yield from wait_for_zombies(context, group)
    thaw(context, group)  # otherwise the new process would never begin to run
    with host_sources.opening() as sources:
        folder, base = f"{context.instance.servers}/{step.server}", context.bases[step.server]
        if has_image(folder) or has_subvolume(folder):
            yield from context.threads.run(lambda: sources.attach_disk(folder, base))
        spec = _spec(context, step.server)
        if host_sources.images_of(context.instance, spec):
            yield from context.threads.run(lambda: sources.mount_volumes(context.instance, spec))
        ready = yield from launch.spawn(context, request.for_server(context, server, group, sources))
    context.spawned[step.server] = ready["id"]
    init = context.inits[step.server] = Process(ready["pid"], ready["start"])
    if ready["terminal"] >= 0:
        from vsprov.engine.guests import terminal

        terminal.hand_over(context, step.server, init, ready["terminal"])
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
    spec = _spec(context, step.server)
    roots.write(context.instance, home, step.server, context.contents_for(step.server, spec.image).layers)
    marks.write_mark(home, "init", f"{init.pid} {init.start} {proc.boot_id()}")
    if context.automatic:
        restarts.forget_error(home)
    else:
        restarts.forget(home)  # attempts are counted anew
    rescue.mark(home, step.rescue)
    keeping.keep(context, step.server, init, fields.kept(rescued(spec) if step.rescue else spec))


def _spec(context: ApplyContext, server: str) -> Server:
    spec = context.wanted[f"Server/{server}"].spec
    assert isinstance(spec, Server)
    return spec


@carries_out(InformKeeper)
def inform_keeper(context: ApplyContext, step: InformKeeper) -> None:
    if init := context.inits.get(step.server):
        keeping.keep(context, step.server, init, step.spec)


@carries_out(Release)
def release(context: ApplyContext, step: Release) -> Work:
    try:
        yield from launch.release(context, context.spawned[step.server])
    except StepError:
        context.inits.pop(step.server, None)
        if not context.automatic:  # else the keeper tries again
            marks.remove_mark(context.directory("", context.groups[step.server]), "init")
        raise
    context.released[step.server] = time.monotonic()
