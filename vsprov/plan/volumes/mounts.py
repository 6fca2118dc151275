"""Which servers mount which volumes, and why some of them may not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vsprov.model.kinds.server import Server
from vsprov.model.kinds.volume import Volume
from vsprov.model.objects import Object
from vsprov.model.suggest import did_you_mean
from vsprov.plan.builder import PlanBuilder
from vsprov.plan.observed import Observed, ObservedServer
from vsprov.plan.volumes.state import volumes


def check(builder: PlanBuilder) -> None:
    """Add a problem for each volume that a server mounts and that is missing, damaged, or exclusive and
    mounted by another server.
    """
    request = builder.wanted.request
    if request and request.action == "stop":
        return
    seen = volumes(builder.observed)
    known = {*builder.of("Volume"), *seen}
    for want in builder.servers.values():
        for place, name in of_spec(want):
            path = f"spec.mounts[{place}].source"
            if name not in known:
                message = f"volume {name} not found in the manifest or on this host"
                builder.problem(want.address, message + did_you_mean(name, known), path=path)
            elif name not in builder.of("Volume") and seen[name].problem:
                builder.problem(want.address, f"volume {name}: {seen[name].problem}", path=path)
    for name, users in _users(builder).items():
        if len(users) > 1 and _is_exclusive(builder, name):
            message = f"exclusive, but mounted by {', '.join(sorted(users))}"
            hint = "let only one of them mount it, or set exclusive: false"
            builder.problem(f"Volume/{name}", message, hint, "spec.exclusive")


def of_spec(want: Object) -> Iterator[tuple[int, str]]:
    """(place among the mounts, volume) of each volume that a server is to mount."""
    assert isinstance(want.spec, Server)
    for place, mount in enumerate(want.spec.mounts):
        if mount.type == "volume" and mount.source is not None:
            yield place, mount.source


def of_record(seen: ObservedServer) -> list[str]:
    """The volumes that a server was applied with."""
    return names(seen.applied["spec"]) if seen.applied else []


def names(spec: Mapping[str, Any]) -> list[str]:
    """The volumes among the mounts of a recorded spec, each once."""
    mounts = spec.get("mounts", ())
    return list(dict.fromkeys(one["source"] for one in mounts if one["type"] == "volume"))


def written_by(seen: ObservedServer) -> list[str]:
    """The volumes that a server was applied with and can write to, each once."""
    mounts = seen.applied["spec"].get("mounts", ()) if seen.applied else ()
    found = (one["source"] for one in mounts if one["type"] == "volume" and not one.get("readOnly"))
    return list(dict.fromkeys(found))


def writers(observed: Observed, volumes: Iterable[str]) -> list[ObservedServer]:
    """The servers that can write to any of these volumes."""
    wanted = set(volumes)
    return [seen for seen in observed.servers.values() if wanted.intersection(written_by(seen))]


def users(observed: Observed, volume: str) -> list[ObservedServer]:
    """The servers that were applied with a volume."""
    return [seen for seen in observed.servers.values() if volume in of_record(seen)]


def _users(builder: PlanBuilder) -> Mapping[str, set[str]]:
    """{volume: addresses of the servers that mount it once the plan is applied}."""
    found: dict[str, set[str]] = {}
    for want in builder.servers.values():
        for _, name in of_spec(want):
            found.setdefault(name, set()).add(want.address)
    for server, seen in builder.observed.servers.items():
        if server not in builder.servers and not builder.removes("Server", server, seen.set_owner):
            for name in of_record(seen):
                found.setdefault(name, set()).add(f"Server/{server}")
    return found


def _is_exclusive(builder: PlanBuilder, name: str) -> bool:
    want = builder.of("Volume").get(name)
    if want is not None:
        return isinstance(want.spec, Volume) and want.spec.exclusive
    seen = volumes(builder.observed).get(name)
    return bool(seen and seen.spec.get("exclusive"))
