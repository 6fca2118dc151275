"""The `run` step of a build: a guest for one command, whose upper directory becomes a layer of the image.

Its control group has the role "build": it belongs to no server of the plan, and if this apply dies, the next
one removes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import Any

from vsprov.engine.guests import host_sources, launch, payload, request
from vsprov.engine.images.output import Output
from vsprov.engine.run import intent
from vsprov.engine.run.context import SECONDS_TO_DIE, ApplyContext
from vsprov.engine.run.schedule import Wait
from vsprov.errors import StepError
from vsprov.kernel import cgroup
from vsprov.model.sources import RunStep
from vsprov.store.disk import durable, marks
from vsprov.store.disk.limits import Limits
from vsprov.store.images import Contents
from vsprov.store.instance import TREE
from vsprov.store.layers.layers import Batch

ROLE, PREFIX = "build", ".build-"  # names of servers and pools do not begin with a dot
OUTPUT_LINES = 20  # shown in an error


def make(
    context: ApplyContext, batch: Batch, image: str, key: str, step: RunStep, below: Contents, limits: Limits
) -> Generator[Wait, Any, None]:
    """Run the command on the layers below it, and store what it has written as the layer `key`.

    StepError unless the command ends with 0. An image runs one step at a time, so the group has its name.
    """
    base = context.next_range()
    folder = batch.begin(lambda into: _prepare(into, base))
    group = _make_group(context, image, base)
    context.builds.append(group)
    output = Output(f"{folder}/console")
    try:
        lower = [batch.tree(one) for one in reversed(below.layers)]
        with ExitStack() as network:
            own, connect = _network(context, image, step)
            with host_sources.opening() as sources:
                inner = f"{group}/payload"
                guest = request.for_build(context, step, below, lower, folder, base, inner, sources, own)
                ready = yield from launch.spawn(context, guest)
            network.enter_context(connect(ready["pid"]))
            yield from launch.release(context, ready["id"])
            code = yield from launch.wait(context, ready["id"])
        if code != 0:
            raise StepError(f"it ended with {code}{_last_lines(output.close())}")
    finally:
        output.close()
        cgroup.end(group, SECONDS_TO_DIE)
        context.builds.remove(group)
        if context.made_parent:
            with suppress(OSError):  # another build is still in it, and will remove it
                os.rmdir(os.path.dirname(group))
    yield from context.threads.run(lambda: _keep(batch, key, folder, base, limits))


def _network(
    context: ApplyContext, image: str, step: RunStep
) -> tuple[str | None, Callable[[int], AbstractContextManager[None]]]:
    """(/etc/resolv.conf of the step, None for none of its own; what connects it, given its first process)."""
    if step.network in ("none", "host"):
        return None, lambda pid: nullcontext()
    from vsprov.engine.networks import build

    return build.resolver(context), lambda pid: build.connected(context, image, step.network, pid)


def _prepare(into: str, base: int) -> None:
    work = f"{os.path.dirname(into)}/work"
    os.mkdir(work, 0o700)
    for path in (into, work):
        os.chown(path, base, base)


def _make_group(context: ApplyContext, image: str, base: int) -> str:
    """Create the home group of the build below the instance's, with a payload owned by `base`; its path."""
    top = context.instance.name
    name = f"{top}/{PREFIX}{image}"
    parent, group = context.directory("", top), context.directory("", name)
    intent.add_groups(context.instance, [top, name])
    if not os.path.isdir(parent):  # an apply of images only
        os.mkdir(parent, 0o755)
        marks.write_mark(parent, marks.OWNER, f"host {top}/")
        context.made_parent = True
    os.mkdir(group, 0o755)
    marks.write_mark(group, marks.OWNER, f"{ROLE} {top}/build")
    payload.make(group, base)
    return group


def sweep(directory: str) -> list[str]:
    """Remove the groups of builds that died, below the instance's group `directory`; their paths."""
    found = []
    for name in cgroup.children(directory):
        group = f"{directory}/{name}"
        if name.startswith(PREFIX) and marks.role_of(group) == ROLE:
            cgroup.end(group, SECONDS_TO_DIE)
            found.append(group)
    return found


def _last_lines(output: bytes) -> str:
    lines = output.decode(errors="replace").rstrip().splitlines()[-OUTPUT_LINES:]
    return "".join(f"\n    {line}" for line in lines)


def _keep(batch: Batch, key: str, folder: str, base: int, limits: Limits) -> None:
    from vsprov.store.layers import shift  # few applies build anything

    durable.remove_tree(f"{folder}/work")
    os.unlink(f"{folder}/console")
    shift.to_layer(f"{folder}/{TREE}", base, limits)
    batch.keep(key, folder)
