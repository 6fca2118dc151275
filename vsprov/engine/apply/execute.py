"""Carry out one step of a plan, and turn errors of the kernel into messages."""

from __future__ import annotations

import errno
import os

from vsprov.engine import aspects as _aspects  # noqa: F401  registers their steps
from vsprov.engine import steps as _steps  # noqa: F401
from vsprov.engine.apply.register import function_of, refuse_missing
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Work
from vsprov.errors import StepError, path_of, reason
from vsprov.kernel import cgroup
from vsprov.kernel.storage import full
from vsprov.model.values.units import format_bytes
from vsprov.plan.steps import Step, WriteFile

refuse_missing()


def do(context: ApplyContext, step: Step) -> Work:
    """Carry out one step. An OSError becomes a StepError that names the step, the file and the reason."""
    try:
        waiting = function_of(type(step))(context, step)
        if waiting is not None:
            yield from waiting
    except OSError as error:
        where = f": {path_of(error)}" if path_of(error) else ""
        raise StepError(
            f"{step.describe()}{where}: {reason(error)}", hint=_hint(context, step, error)
        ) from error


def _hint(context: ApplyContext, step: Step, error: OSError) -> str:
    if isinstance(step, WriteFile) and error.errno == errno.EBUSY and step.file.startswith("memory."):
        usage = cgroup.memory_used(context.directory(step.controller, step.group))
        used = format_bytes(usage) if usage is not None else "more"
        return f"{used} is in use; stop processes in the server or raise the limit"
    if error.errno == errno.ENOSPC and isinstance(step, WriteFile):
        return "the kernel has no more of this resource for the group"
    if error.errno in full.FULL:
        path = path_of(error)
        return full.hint(error.errno, path if os.path.isabs(path) else context.instance.root)
    return ""
