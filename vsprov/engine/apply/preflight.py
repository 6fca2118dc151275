"""Checks on the host whether servers can start, before running servers are stopped for a restart."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from vsprov.engine.guests import host_sources
from vsprov.engine.guests.request import find_reaper
from vsprov.errors import Problem, reason
from vsprov.kernel import overlay, paths
from vsprov.model.defaults import init_of, lacks_command
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.plan import Plan
from vsprov.plan.steps import Spawn


def problems(
    root: str,
    plan: Plan,
    objects: tuple[Object, ...],
    image_config: Callable[[str], Mapping[str, Any] | None],
) -> Iterator[Problem]:
    """The reasons why servers that the plan starts could not start; `root` is the state root.

    `image_config` returns the defaults of an image by its name; None if they are not known yet.
    """
    starting = {step.server for change in plan.changes for step in change.steps if isinstance(step, Spawn)}
    servers = [
        (want, want.spec) for want in objects if isinstance(want.spec, Server) and want.name in starting
    ]
    silent = host_sources.unanswered(
        [mount.source for _, spec in servers for mount in spec.mounts if mount.source is not None]
    )
    if servers:
        yield from _of_root(root)
    for want, spec in servers:
        yield from _of_server(want.address, spec, silent)
        config = image_config(spec.image)
        if config is not None and not init_of(spec.init, config).command:
            hint = "init: {command: [/bin/sh, -c, …]}"
            yield Problem(lacks_command(spec.image), None, "spec.init.command", want.address, hint)


def _of_root(root: str) -> Iterator[Problem]:
    place = paths.existing(root)
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return  # the kernel answers EINVAL; an apply says that it is read-only, before it stops anything
    try:
        overlay.refuse_upper(place)
    except OSError as error:
        message = f"state root {root}: {reason(error)}"
        yield Problem(message, None, "", "Host", "choose another --root; see vsprov doctor", lack=True)


def _of_server(address: str, spec: Server, silent: Container[str]) -> Iterator[Problem]:
    if spec.init.reaper and find_reaper() is None:
        message = "neither catatonit nor tini is installed on the host"
        yield Problem(message, None, "spec.init.reaper", address, "apt install catatonit")
    for index, mount in enumerate(spec.mounts):
        if mount.source is None:
            continue
        refused = (
            host_sources.no_answer(mount.source) if mount.source in silent else host_sources.problem(mount)
        )
        if refused:
            where = f"spec.mounts[{index}].source"
            yield Problem(refused.message, None, where, address, refused.hint)
