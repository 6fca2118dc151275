"""Doing steps: one function per class of step, each brings about what its step says or raises StepError.

A function that has to wait is a generator and yields to the scheduler. All are safe to do again: an apply
that died is followed by one that plans from what it finds.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable, Generator
from typing import Any

from vsprov.engine.guests import launch, payload, request
from vsprov.engine.images import imports
from vsprov.engine.look import last_exit
from vsprov.engine.run.context import SECONDS_TO_DIE, ApplyContext
from vsprov.engine.run.schedule import Readable, Wait
from vsprov.errors import StepError, reason
from vsprov.kernel import cgroup, namespace, proc, process
from vsprov.model.names import signal_number
from vsprov.model.units import MAX, format_bytes
from vsprov.plan import applied
from vsprov.plan.observed import Process
from vsprov.plan.steps import (
    DiscardUpper,
    ImportImage,
    MakeDirectory,
    MakeGroup,
    MakePayload,
    MarkInit,
    MoveProcesses,
    PassDown,
    Release,
    RemoveDirectory,
    RemoveGroup,
    RemoveImage,
    SetHostname,
    SetLimit,
    Spawn,
    Step,
    Stop,
    WriteApplied,
    WriteFile,
    WriteMark,
    describe,
)
from vsprov.store import images, servers
from vsprov.store.disk import marks
from vsprov.store.disk.marks import Owner

Doing = Generator[Wait, Any, None]
LOOKS_AT_THE_DEAD, SECONDS_BETWEEN_LOOKS = 250, 0.02


def do(context: ApplyContext, step: Step) -> Doing:
    """Do one step; what the kernel refuses becomes a StepError that names the step and says so."""
    try:
        waiting = DO[type(step)](context, step)
        if waiting is not None:
            yield from waiting
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise StepError(
            f"{describe(step)}{where}: {reason(error)}", hint=_hint(context, step, error)
        ) from error


def _hint(context: ApplyContext, step: Step, error: OSError) -> str:
    if isinstance(step, WriteFile) and error.errno == errno.EBUSY and step.file.startswith("memory."):
        usage = cgroup.memory_used(context.directory(step.controller, step.group))
        used = format_bytes(usage) if usage is not None else "more"
        return f"{used} is in use; stop something in the server or raise the limit"
    if error.errno == errno.ENOSPC and isinstance(step, WriteFile):
        return "the kernel has no more of this to give to this group"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left below {context.instance.root}"
    return ""


# -- control groups


def make_group(context: ApplyContext, step: MakeGroup) -> None:
    directory = context.directory(step.controller, step.group)
    mark = f"{step.role} {step.owner}"
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        there = marks.read_mark(directory, marks.OWNER)
        if there is not None and there != mark:
            raise StepError(f"{describe(step)}: it exists and belongs to {there.partition(' ')[2]}") from None
        if there is None and cgroup.all_processes(directory):
            raise StepError(f"{describe(step)}: it exists and does not carry our mark") from None
    marks.write_mark(directory, marks.OWNER, mark)
    if step.role == "server" and step.controller == "":
        context.groups[os.path.basename(step.group)] = step.group


def make_payload(context: ApplyContext, step: MakePayload) -> None:
    payload.make(context.directory("", step.group), servers.id_base(context.instance, step.server))
    context.fresh.add(step.group)


def pass_down(context: ApplyContext, step: PassDown) -> None:
    for name in step.controllers:
        cgroup.write(f"{context.directory('', step.group)}/cgroup.subtree_control", f"+{name}")


def write_file(context: ApplyContext, step: WriteFile) -> None:
    path = f"{context.directory(step.controller, step.group)}/{step.file}"
    if step.file == "memory.max":
        make_room(os.path.dirname(path), step.data[-1])
    for part in step.data:
        cgroup.write(path, part)


def make_room(directory: str, limit: str) -> None:
    """Reclaim what a cgroup2 group uses above a new memory.max; EBUSY, as cgroup v1 says, when it does not go
    down that far. The kernel would take the limit all the same, and kill (cgroup-v2.rst).
    """
    current = int(cgroup.read(f"{directory}/memory.current") or 0)
    if limit == MAX or current <= int(limit):
        return
    try:
        cgroup.write(f"{directory}/memory.reclaim", str(current - int(limit)))
    except (BlockingIOError, FileNotFoundError):
        pass  # it could not reclaim as much; a kernel before 5.19 has no such file
    if int(cgroup.read(f"{directory}/memory.current") or 0) > int(limit):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def write_mark(context: ApplyContext, step: WriteMark) -> None:
    marks.write_mark(context.directory("", step.group), step.name, step.text)


def move_processes(context: ApplyContext, step: MoveProcesses) -> None:
    """Move until a look finds none outside, for they may fork meanwhile."""
    home = context.directory("", step.group)
    target = context.directory(step.controller, step.group) if step.controller else f"{home}/payload"
    init = context.inits[os.path.basename(step.group)]
    moved: set[int] = set()
    while left := [pid for pid in ({init.pid, *cgroup.all_processes(home)}) if pid not in moved]:
        for pid in left:
            moved.add(pid)
            if step.controller or not _within(proc.groups_of(pid).get("", ""), f"/{step.group}/"):
                try:
                    cgroup.write(f"{target}/cgroup.procs", str(pid))
                except ProcessLookupError:
                    continue  # ended in between


def _within(path: str, group: str) -> bool:
    return f"{path}/".startswith(group)


def remove_group(context: ApplyContext, step: RemoveGroup) -> Doing:
    home = context.directory("", step.group)
    yield from kill_group(context, step.group)
    for name in sorted({context.directory(controller, step.group) for controller in context.hierarchies.v1}):
        cgroup.remove(name)
    cgroup.remove(home)


def kill_group(context: ApplyContext, group: str) -> Doing:
    """SIGKILL to everything in a group, and wait until nothing is left in it."""
    home = context.directory("", group)
    if not cgroup.populated(home):
        return
    cgroup.kill(home)
    fd = os.open(f"{home}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while b"populated 1" in os.pread(fd, 4096, 0):
            if not (yield Readable(fd, SECONDS_TO_DIE, select.POLLPRI | select.POLLERR)):
                raise _does_not_die(group, cgroup.all_processes(home))
    finally:
        os.close(fd)


def _does_not_die(who: str, pids: list[int]) -> StepError:
    return StepError(
        f"kill everything in {who}: still there after {SECONDS_TO_DIE:g} s: {' '.join(map(str, pids))}",
        hint="a process hangs in the kernel (state D); see /proc/PID/stack",
    )


# -- images and directories


def import_image(context: ApplyContext, step: ImportImage) -> Doing:
    yield from imports.import_image(context, step, _owner(context.owner))


def remove_image(context: ApplyContext, step: RemoveImage) -> None:
    images.remove(context.instance, step.image)


def make_directory(context: ApplyContext, step: MakeDirectory) -> None:
    servers.make(
        context.instance,
        step.server,
        _owner(step.owner),
        context.next_range(),
        applied.from_text(step.applied),
    )


def write_applied(context: ApplyContext, step: WriteApplied) -> None:
    servers.write_applied(context.instance, step.server, applied.from_text(step.applied), flush=False)


def discard_upper(context: ApplyContext, step: DiscardUpper) -> None:
    servers.discard_upper(context.instance, step.server)


def remove_directory(context: ApplyContext, step: RemoveDirectory) -> None:
    servers.remove(context.instance, step.server)


def _owner(text: str) -> Owner:
    instance, _, name = text.partition("/")
    return Owner(instance, name)


# -- running servers


def set_limit(context: ApplyContext, step: SetLimit) -> None:
    """On every process: a limit is a process's own, and only new ones inherit it."""
    soft, hard = (-1 if word == MAX else int(word) for word in (step.soft, step.hard))
    done: set[int] = set()
    home = context.directory("", context.groups[step.server])
    while left := [pid for pid in cgroup.all_processes(home) if pid not in done]:
        for pid in left:
            done.add(pid)
            process.set_limit(pid, step.limit, soft, hard)


def set_hostname(context: ApplyContext, step: SetHostname) -> None:
    namespace.set_hostname(context.inits[step.server].pid, step.hostname)


def stop(context: ApplyContext, step: Stop) -> Doing:
    """The stop signal, then time to end, then SIGKILL for whatever is left.

    A pid 1 without a handler never gets a signal (pid_namespaces(7)), so then there is nothing to wait for.
    """
    init = context.inits.pop(step.server, None)
    group = context.groups[step.server]
    pidfd = process.open_pidfd(init.pid, init.start) if init else None
    if init is None or pidfd is None:
        yield from kill_group(context, group)
    else:
        number = signal_number(step.signal)
        try:
            if number != signal.SIGKILL and process.catches(init.pid, number):
                process.send_signal(pidfd, number)
                yield Readable(pidfd, step.timeout / 1_000_000)
            # It may have been moved out of its group; all of its pid namespace ends with it.
            process.send_signal(pidfd, signal.SIGKILL)
            yield from kill_group(context, group)
            if not (yield Readable(pidfd, SECONDS_TO_DIE)):
                raise _does_not_die(step.server, [init.pid])
            if how := process.exit_info(pidfd, init.pid, init.start):
                last_exit.record(context.directory("", group), how)
        finally:
            os.close(pidfd)
    marks.remove_mark(context.directory("", group), "init")
    context.stopped.add(group)


def let_the_dead_go(context: ApplyContext, group: str) -> Doing:
    """Wait a moment, where the dead would take more than an eighth of what a stopped server may have.

    They count against pids.max until their parent has waited for them; that is the host's init by now, which
    on some hosts takes its time. Nothing tells when it has.
    """
    directory = context.directory("pids", group)
    limit = cgroup.read(f"{directory}/pids.max") or MAX
    if limit == MAX:
        return
    timer = os.eventfd(0)  # never readable
    try:
        for _ in range(LOOKS_AT_THE_DEAD):
            if 8 * int(cgroup.read(f"{directory}/pids.current") or 0) <= int(limit):
                return
            yield Readable(timer, SECONDS_BETWEEN_LOOKS)
    finally:
        os.close(timer)


def spawn(context: ApplyContext, step: Spawn) -> Doing:
    server, group = context.wanted[f"Server/{step.server}"], context.groups[step.server]
    if group not in context.fresh:
        make_payload(context, MakePayload(group, step.server))
    context.fresh.discard(group)
    if group in context.stopped:
        yield from let_the_dead_go(context, group)
    ready = yield from launch.spawn(context, request.for_server(context, server, group))
    context.spawned[step.server] = ready["id"]
    context.inits[step.server] = Process(ready["pid"], ready["start"])
    for path in ready["unmapped"]:
        context.notice(
            f"{step.server}: {path} is on a file system that cannot be idmapped; its files show as nobody's"
        )


def mark_init(context: ApplyContext, step: MarkInit) -> None:
    init, home = context.inits[step.server], context.directory("", context.groups[step.server])
    last_exit.forget(home)
    marks.write_mark(home, "init", f"{init.pid} {init.start} {proc.boot_id()}")


def release(context: ApplyContext, step: Release) -> Doing:
    try:
        yield from launch.release(context, context.spawned[step.server])
    except StepError:
        context.inits.pop(step.server, None)
        raise


DO: dict[type, Callable[[ApplyContext, Any], Doing | None]] = {
    MakeGroup: make_group,
    MakePayload: make_payload,
    PassDown: pass_down,
    WriteFile: write_file,
    WriteMark: write_mark,
    MoveProcesses: move_processes,
    RemoveGroup: remove_group,
    ImportImage: import_image,
    RemoveImage: remove_image,
    MakeDirectory: make_directory,
    WriteApplied: write_applied,
    DiscardUpper: discard_upper,
    RemoveDirectory: remove_directory,
    SetLimit: set_limit,
    SetHostname: set_hostname,
    Stop: stop,
    Spawn: spawn,
    MarkInit: mark_init,
    Release: release,
}
