"""Steps for control groups."""

from __future__ import annotations

import errno
import os
from contextlib import closing

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
from vsprov.store.disk import marks


@carries_out(MakeGroup)
def make_group(context: ApplyContext, step: MakeGroup) -> None:
    directory = context.directory(step.hierarchy, step.group)
    mark = f"{step.role} {step.owner}"
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        found = marks.read_mark(directory, marks.OWNER)
        if found is not None and found != mark:
            raise StepError(
                f"{step.describe()}: it exists and belongs to {found.partition(' ')[2]}"
            ) from None
        if found is None and cgroup.all_processes(directory):
            raise StepError(f"{step.describe()}: it exists but has no owner mark") from None
    marks.write_mark(directory, marks.OWNER, mark)
    if step.role == "server" and step.hierarchy == "":
        context.groups[os.path.basename(step.group)] = step.group


@carries_out(MakePayload)
def make_payload(context: ApplyContext, step: MakePayload) -> None:
    payload.make(context.directory("", step.group), context.bases[step.server])


@carries_out(EnableControllers)
def enable_controllers(context: ApplyContext, step: EnableControllers) -> None:
    for name in step.controllers:
        cgroup.write(f"{context.directory('', step.group)}/cgroup.subtree_control", f"+{name}")


@carries_out(WriteFile)
def write_file(context: ApplyContext, step: WriteFile) -> None:
    path = f"{context.directory(step.controller, step.group)}/{step.file}"
    if step.file == "memory.max":
        reclaim_memory(os.path.dirname(path), step.data[-1])
    server = context.groups.get(os.path.basename(step.group)) == step.group  # not a pool
    for part in step.data:
        cgroup.write(path, part)
        if server:
            payload.mirror(os.path.dirname(path), step.file, part)


def reclaim_memory(directory: str, limit: str) -> None:
    """Reclaim memory of a cgroup2 group until it uses at most `limit`, the new memory.max.

    OSError (EBUSY) if that is not possible. cgroup v1 returns the same error; cgroup2 would accept the limit
    and invoke the OOM killer (cgroup-v2.rst).
    """
    current = int(cgroup.read(f"{directory}/memory.current") or 0)
    if limit == MAX or current <= int(limit):
        return
    try:
        cgroup.write(f"{directory}/memory.reclaim", str(current - int(limit)))
    except (BlockingIOError, FileNotFoundError):
        pass  # EAGAIN: not all could be reclaimed; ENOENT: Linux before 5.19
    if int(cgroup.read(f"{directory}/memory.current") or 0) > int(limit):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


@carries_out(WriteMark)
def write_mark(context: ApplyContext, step: WriteMark) -> None:
    marks.write_mark(context.directory("", step.group), step.name, step.text)


@carries_out(MoveProcesses)
def move_processes(context: ApplyContext, step: MoveProcesses) -> None:
    """Repeat until no process is left outside, because processes may fork in the meantime."""
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
                    continue  # it has exited


def _within(path: str, group: str) -> bool:
    return f"{path}/".startswith(group)


@carries_out(RemoveGroup)
def remove_group(context: ApplyContext, step: RemoveGroup) -> Work:
    """Kill and remove what is below the home of a server, where its root may make groups. Of what is below
    the parent group, end what has a mark (the keeper), and below all other groups leave everything alone.
    """
    home = context.directory("", step.group)
    role = marks.role_of(home)
    if role == "server":
        yield from kill_group(context, step.group)
    elif role == "host":
        for name in cgroup.children(home):
            if name.startswith(".") and marks.role_of(f"{home}/{name}"):
                yield from kill_group(context, f"{step.group}/{name}")
                cgroup.remove(f"{home}/{name}")
    for name in sorted({context.directory(controller, step.group) for controller in context.hierarchies.v1}):
        _remove_empty(step, name)
    if role == "server":
        cgroup.remove(home)
    else:
        _remove_empty(step, home)


def _remove_empty(step: RemoveGroup, directory: str) -> None:
    try:
        cgroup.remove_empty(directory)
    except OSError as error:
        if names := cgroup.children(directory):
            message = f"{step.describe()}: {directory} has groups below it that vsprov did not create"
            raise StepError(f"{message}: {', '.join(sorted(names)[:5])}", hint="remove them") from error
        raise


def kill_group(context: ApplyContext, group: str) -> Work:
    """Kill all processes in a group and wait until it is empty. StepError if a process does not exit."""
    home = context.directory("", group)
    with closing(cgroup.kill_all(home)) as waits:
        for fd in waits:
            if not (yield Readable(fd, SECONDS_TO_DIE, cgroup.EMPTIED)):
                raise not_killed(group, cgroup.all_processes(home))


def not_killed(subject: str, pids: list[int]) -> StepError:
    """The error for processes that are still running after SIGKILL."""
    return StepError(
        f"kill all processes in {subject}: "
        f"still running after {SECONDS_TO_DIE:g} s: {' '.join(map(str, pids))}",
        hint="a process is blocked in the kernel (state D); see /proc/PID/stack",
    )
