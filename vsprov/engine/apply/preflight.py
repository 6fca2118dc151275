"""Checks on the host whether servers can start, before running servers are stopped for a restart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vsprov.engine.guests.request import find_reaper
from vsprov.errors import Problem, reason
from vsprov.model.defaults import init_of, lacks_command
from vsprov.model.objects import Object, Server
from vsprov.plan.plan import Plan
from vsprov.plan.steps import Spawn


def problems(
    plan: Plan, objects: tuple[Object, ...], image_config: Callable[[str], Mapping[str, Any] | None]
) -> Iterator[Problem]:
    """The reasons why servers that the plan starts could not start.

    `image_config` returns the defaults of an image by its name; None if they are not known yet.
    """
    starting = {step.server for change in plan.changes for step in change.steps if isinstance(step, Spawn)}
    for want in objects:
        if isinstance(want.spec, Server) and want.name in starting:
            yield from _of_server(want.address, want.spec)
            config = image_config(want.spec.image)
            if config is not None and not init_of(want.spec.init, config).command:
                hint = "init: {command: [/bin/sh, -c, …]}"
                yield Problem(lacks_command(want.spec.image), None, "spec.init.command", want.address, hint)


def _of_server(address: str, spec: Server) -> Iterator[Problem]:
    if spec.init.reaper and find_reaper() is None:
        message = "neither catatonit nor tini is installed on the host"
        yield Problem(message, None, "spec.init.reaper", address, "apt install catatonit")
    for index, mount in enumerate(spec.mounts):
        if mount.source is None:
            continue
        try:
            os.stat(mount.source)
        except OSError as error:
            message = f"{mount.source}: {reason(error)}"
            yield Problem(
                message, None, f"spec.mounts[{index}].source", address, "create it on the host first"
            )
