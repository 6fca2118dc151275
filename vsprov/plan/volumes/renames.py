"""Volumes that get another name, and keep their files: `metadata.renamedFrom`.

For the rest of the plan a volume to be renamed has its new name already, also as servers have it mounted: a
mount stays when its directory gets another name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from vsprov.errors import Problem
from vsprov.model.objects import Object
from vsprov.plan.aspects.mounts import MOUNTS, MountedVolume
from vsprov.plan.builder import Wanted
from vsprov.plan.observed import Observed, ObservedServer, is_of, set_of
from vsprov.plan.volumes import mounts
from vsprov.plan.volumes.state import ObservedVolume, volumes

PATH = "metadata.renamedFrom"


def carry_over(wanted: Wanted, observed: Observed, asked: Iterable[Object]) -> tuple[Observed, list[Problem]]:
    """What is observed, with the new names of the volumes that get one; and why others cannot get one."""
    seen, names = dict(volumes(observed)), {}
    problems: list[Problem] = []
    for want in asked:
        old = seen.get(want.renamed_from or "")
        if old is None:
            continue
        refused = list(_refusals(wanted, observed, want, old))
        problems += refused
        if not refused:
            names[old.name] = want.name
            del seen[old.name]
            seen[want.name] = replace(old, name=want.name, formerly=old.name)
    if not names:
        return observed, problems
    servers = {name: _renamed(server, names) for name, server in observed.servers.items()}
    return replace(observed, servers=servers, more={**observed.more, "Volume": seen}), problems


def _refusals(wanted: Wanted, observed: Observed, want: Object, old: ObservedVolume) -> Iterator[Problem]:
    if want.name in volumes(observed):
        message = f"both {old.name} and {want.name} exist, so {old.name} cannot be renamed"
        hint = f"remove the key, or delete one of them, such as: vsprov delete volume {old.name}"
        yield Problem(message, None, PATH, want.address, hint)
    elif not is_of(old.owner, wanted.instance):
        yield Problem(f"volume {old.name} was not created by vsprov", None, PATH, want.address)
    elif not wanted.owns(old.owner):
        hint = f"apply to set {set_of(old.owner)}"
        yield Problem(f"volume {old.name} belongs to {old.owner}", None, PATH, want.address, hint)
    else:
        named = {one.name for one in wanted.objects if one.kind == "Server"}
        others = [
            f"Server/{name}"
            for name, server in observed.servers.items()
            if name not in named and old.name in mounts.of_record(server)
        ]
        if others:
            hint = "apply the manifests of these servers together with this one"
            message = f"volume {old.name} is used by {', '.join(sorted(others))}"
            yield Problem(message, None, PATH, want.address, hint)


def _renamed(server: ObservedServer, names: Mapping[str, str]) -> ObservedServer:
    """A server that has volumes mounted, with their new names."""
    found: tuple[MountedVolume, ...] = server.live.get(MOUNTS, ())
    if not any(one.volume in names for one in found):
        return server
    now = tuple(dataclasses.replace(one, volume=names.get(one.volume, one.volume)) for one in found)
    return replace(server, live={**server.live, MOUNTS: now})
