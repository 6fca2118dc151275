"""The control groups of guests that are no servers of the plan: `run` steps of builds, and stopped servers
that are prepared for access to their files. If a command dies, the next one removes its groups.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from vsprov.engine.run import intent
from vsprov.engine.run.context import SECONDS_TO_DIE
from vsprov.kernel import cgroup
from vsprov.store.disk import marks

if TYPE_CHECKING:
    from vsprov.engine.run.context import ApplyContext

ROLE, PREFIX = "build", ".build-"  # names of servers and pools do not begin with a dot


def make(context: ApplyContext, name: str, base: int, purpose: str = "build") -> str:
    """Create a group of this role below the instance's, with a payload owned by `base`; its directory."""
    from vsprov.engine.guests import payload

    top = context.instance.name
    name = f"{top}/{PREFIX}{name}"
    parent, group = context.directory("", top), context.directory("", name)
    intent.add_groups(context.instance, [top, name])
    if not os.path.isdir(parent):  # no server runs
        os.mkdir(parent, 0o755)
        marks.write_mark(parent, marks.OWNER, f"host {top}/")
        context.made_parent = True
    os.mkdir(group, 0o755)
    marks.write_mark(group, marks.OWNER, f"{ROLE} {top}/{purpose}")
    payload.make(group, base)
    context.builds.append(group)
    return group


def end(context: ApplyContext, group: str) -> None:
    """Kill what runs in the group, and remove it."""
    cgroup.end(group, SECONDS_TO_DIE)
    context.builds.remove(group)
    if context.made_parent:
        with suppress(OSError):  # another guest is still in it, and will remove it
            os.rmdir(os.path.dirname(group))


def sweep(directory: str) -> list[str]:
    """Remove the groups of builds that died, below the instance's group `directory`; their paths."""
    found = []
    for name in cgroup.children(directory):
        group = f"{directory}/{name}"
        if name.startswith(PREFIX) and marks.role_of(group) == ROLE:
            cgroup.end(group, SECONDS_TO_DIE)
            found.append(group)
    return found
