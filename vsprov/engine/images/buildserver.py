"""The `run` step of a build: a guest for one command, whose upper directory becomes a layer of the image.

Its control group has the role "build": it belongs to no server of the plan, and if this apply dies, the next
one removes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from vsprov.engine.guests import host_sources, launch, request
from vsprov.engine.images import builds
from vsprov.engine.images.output import Output
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Wait
from vsprov.errors import StepError
from vsprov.model.sources import RunStep
from vsprov.store.disk import durable
from vsprov.store.images import Contents
from vsprov.store.instance import TREE
from vsprov.store.layers.layers import Batch
from vsprov.store.trees.limits import Limits

OUTPUT_LINES = 20  # shown in an error


def make(
    context: ApplyContext, batch: Batch, image: str, key: str, step: RunStep, below: Contents, limits: Limits
) -> Generator[Wait, Any, None]:
    """Run the command on the layers below it, and store what it has written as the layer `key`.

    StepError unless the command ends with 0. An image runs one step at a time, so the group has its name.
    """
    base = context.next_range()
    folder = batch.begin(lambda into: _prepare(into, base))
    group = builds.make(context, image, base)
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
        builds.end(context, group)
    yield from context.threads.run(lambda: _keep(batch, key, folder, base, limits, lower))


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


def _last_lines(output: bytes) -> str:
    lines = output.decode(errors="replace").rstrip().splitlines()[-OUTPUT_LINES:]
    return "".join(f"\n    {line}" for line in lines)


def _keep(batch: Batch, key: str, folder: str, base: int, limits: Limits, lower: Sequence[str]) -> None:
    from vsprov.store.layers import shift  # few applies build anything

    durable.remove_tree(f"{folder}/work")
    os.unlink(f"{folder}/console")
    batch.note(shift.to_layer(f"{folder}/{TREE}", base, limits, lower))
    batch.keep(key, folder)
