"""Hooks: the steps that run commands of the host around the start and the stop of a server.

While the commands of postStop are still to be run for a server, its home group has the mark `hooks`. It is
set before the first command of preStart, so that neither a crash nor an end that nobody asked for skips them.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from vsprov.model import fields
from vsprov.model.kinds.sections.hooks import Hook, Hooks
from vsprov.model.kinds.server import Server
from vsprov.plan.observed import HOOKS, HOOKS_DUE, ObservedServer
from vsprov.plan.steps import Release, Step, Stop, WriteMark


class Command(Struct, frozen=True):
    """A command with its timeout in microseconds, and its environment variables."""

    exec: tuple[str, ...]
    timeout: int
    env: tuple[tuple[str, str], ...]


class RunHooks(Step, frozen=True):
    """Run commands on the host, one after the other. After those of postStop, remove the mark.

    `cleanup` are the commands of postStop, which undo those of preStart, also if one of these fails.
    """

    server: str
    hook: str
    commands: tuple[Command, ...]
    cleanup: tuple[Command, ...] = ()

    def describe(self) -> str:
        programs = ", ".join(command.exec[0] for command in self.commands)
        return f"run {self.hook} of {self.server} on the host: {programs or 'nothing'}"

    def undo(self) -> RunHooks | None:
        return RunHooks(self.server, "postStop", self.cleanup) if self.cleanup else None


def _commands(hooks: Iterable[Hook]) -> tuple[Command, ...]:
    return tuple(Command(each.exec, each.timeout, tuple(each.env.items())) for each in hooks)


def recorded(seen: ObservedServer) -> Hooks:
    """The hooks of a server as it was last applied."""
    raw = seen.applied["spec"].get("hooks", {}) if seen.applied else {}
    return fields.read(Hooks, raw) or Hooks()


def before_stop(seen: ObservedServer) -> list[Step]:
    """The step that runs preStop, if the server runs and has it."""
    commands = _commands(recorded(seen).pre_stop) if seen.init else ()
    return [RunHooks(seen.name, "preStop", commands)] if commands else []


def after_stop(seen: ObservedServer) -> list[Step]:
    """The step that runs postStop, if the server has it, for one that was stopped or has ended."""
    commands = _commands(recorded(seen).post_stop)
    if not seen.hooks_due and (not commands or not (seen.init or seen.populated)):
        return []
    return [RunHooks(seen.name, "postStop", commands)]


def around_start(name: str, spec: Server, group: str, start: list[Step]) -> list[Step]:
    """The steps of a start, which ends with a `Release`, with preStart and postStart."""
    hooks, init = spec.hooks, spec.init
    out: list[Step] = []
    before, after, last = (_commands(each) for each in (hooks.pre_start, hooks.post_start, hooks.post_stop))
    out += mark(group, hooks)
    if before or last:
        out.append(RunHooks(name, "preStart", before, last))
    if not after:
        return [*out, *start]
    stop = Stop(name, init.stop_signal or "TERM", init.stop_timeout, failed="postStart hook")
    return [*out, *start[:-1], Release(name, stop), RunHooks(name, "postStart", after)]


def mark(group: str, hooks: Hooks) -> list[Step]:
    """The step that sets the mark, if the server has postStop."""
    return [WriteMark(group, HOOKS, HOOKS_DUE)] if hooks.post_stop else []


def remark(group: str, seen: ObservedServer, hooks: Hooks) -> list[Step]:
    """The step that sets or clears the mark of a running server that gets postStop, or has it no more."""
    before, after = (HOOKS_DUE if each.post_stop else "" for each in (recorded(seen), hooks))
    return [WriteMark(group, HOOKS, after, before or None)] if before != after else []
