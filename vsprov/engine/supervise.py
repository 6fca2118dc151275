"""What `vsprov keeper run` does: start the keeper if there is none, and watch it."""

from __future__ import annotations

import os
import sys
from contextlib import closing

from vsprov import PACKAGE
from vsprov.engine.apply import keeping
from vsprov.engine.apply.exclusive import exclusive
from vsprov.engine.apply.report import Report
from vsprov.engine.look import situation
from vsprov.engine.run import keeper
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.keeper import Keeper
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError
from vsprov.store.instance import Instance

PROGRAM = os.path.join(PACKAGE, "keeper", "watch.py")


def connection(instance: Instance, report: Report, work: WorkOptions) -> Keeper | None:
    """A connection to the keeper, which is started if there is none; None if the instance has no servers."""
    found = keeper.connect(instance)
    if found is None:
        with exclusive(instance, work, report):
            now = situation.look(instance)
            if now.observed.parent is None:
                return None
            context = ApplyContext(instance, now.hierarchies, now.machine, now.observed, f"{instance.name}/*")
            with closing(context):
                keeping.start(context)
                keeping.settle(context)
                found = keeper.connect(instance)
    if found is None:
        raise FailedError("keeper: does not answer")
    return found


def watch(instance: Instance, found: Keeper) -> None:
    """Become the program that waits for the death of the keeper, which takes little memory."""
    fd = os.dup(found.fileno())
    os.set_inheritable(fd, True)
    words = ["-I", "-S", "-B", "-X", "utf8", PROGRAM, instance.name, instance.root, str(fd)]
    os.execv(sys.executable, [sys.executable, *words])
