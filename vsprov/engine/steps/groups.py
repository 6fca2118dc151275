"""Steps on control groups."""

from __future__ import annotations

import errno
import os
import select

from vsprov.engine.apply.register import carries_out
from vsprov.engine.guests import payload
from vsprov.engine.run.context import SECONDS_TO_DIE, ApplyContext
from vsprov.engine.run.schedule import Readable, Work
from vsprov.errors import StepError
from vsprov.kernel import cgroup, proc
from vsprov.model.values.units import MAX
from vsprov.plan.steps import (
    EnableControllers,
    MakeGroup,
    MakePayload,
    MoveProcesses,
    RemoveGroup,
    WriteFile,
    WriteMark,
)
from vsprov.store import servers
from vsprov.store.disk import marks


@carries_out(MakeGroup)
def make_group(context: ApplyContext, step: MakeGroup) -> None:
    directory = context.directory(step.hierarchy, step.group)
    mark = f"{step.role} {step.owner}"
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        there = marks.read_mark(directory, marks.OWNER)
        if there is not None and there != mark:
            raise StepError(
                f"{step.describe()}: it exists and belongs to {there.partition(' ')[2]}"
            ) from None
        if there is None and cgroup.all_processes(directory):
            raise StepError(f"{step.describe()}: it exists and does not carry our mark") from None
    marks.write_mark(directory, marks.OWNER, mark)
    if step.role == "server" and step.hierarchy == "":
        context.groups[os.path.basename(step.group)] = step.group


@carries_out(MakePayload)
def make_payload(context: ApplyContext, step: MakePayload) -> None:
    payload.make(context.directory("", step.group), servers.id_base(context.instance, step.server))


@carries_out(EnableControllers)
def enable_controllers(context: ApplyContext, step: EnableControllers) -> None:
    for name in step.controllers:
        cgroup.write(f"{context.directory('', step.group)}/cgroup.subtree_control", f"+{name}")


@carries_out(WriteFile)
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


@carries_out(WriteMark)
def write_mark(context: ApplyContext, step: WriteMark) -> None:
    marks.write_mark(context.directory("", step.group), step.name, step.text)


@carries_out(MoveProcesses)
def move_processes(context: ApplyContext, step: MoveProcesses) -> None:
    """Move until a look finds none outside, for they may fork meanwhile."""
    home = context.directory("", step.group)
    target = context.directory(step.hierarchy, step.group) if step.hierarchy else f"{home}/payload"
    init = context.inits[os.path.basename(step.group)]
    moved: set[int] = set()
    while left := [pid for pid in ({init.pid, *cgroup.all_processes(home)}) if pid not in moved]:
        for pid in left:
            moved.add(pid)
            if step.hierarchy or not _within(proc.groups_of(pid).get("", ""), f"/{step.group}/"):
                try:
                    cgroup.write(f"{target}/cgroup.procs", str(pid))
                except ProcessLookupError:
                    continue  # ended in between


def _within(path: str, group: str) -> bool:
    return f"{path}/".startswith(group)


@carries_out(RemoveGroup)
def remove_group(context: ApplyContext, step: RemoveGroup) -> Work:
    home = context.directory("", step.group)
    yield from kill_group(context, step.group)
    for name in sorted({context.directory(controller, step.group) for controller in context.hierarchies.v1}):
        cgroup.remove(name)
    cgroup.remove(home)


def kill_group(context: ApplyContext, group: str) -> Work:
    """SIGKILL to everything in a group, and wait until nothing is left in it."""
    home = context.directory("", group)
    if not cgroup.populated(home):
        return
    cgroup.kill(home)
    fd = os.open(f"{home}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while b"populated 1" in os.pread(fd, 4096, 0):
            if not (yield Readable(fd, SECONDS_TO_DIE, select.POLLPRI | select.POLLERR)):
                raise does_not_die(group, cgroup.all_processes(home))
    finally:
        os.close(fd)


def does_not_die(who: str, pids: list[int]) -> StepError:
    return StepError(
        f"kill everything in {who}: still there after {SECONDS_TO_DIE:g} s: {' '.join(map(str, pids))}",
        hint="a process hangs in the kernel (state D); see /proc/PID/stack",
    )
