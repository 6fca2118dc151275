"""What `describe` shows of an object besides its document: one function for each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import asdict, replace

from vsprov.engine.look import last_exit
from vsprov.engine.show import documents, processes
from vsprov.engine.show.documents import SituationWithWeights
from vsprov.errors import VsprovError
from vsprov.model.defaults import init_of
from vsprov.model.kinds.server import Server
from vsprov.plan.aspects.mounts import MOUNTS
from vsprov.plan.builder import EVERY_SET, Wanted
from vsprov.plan.compare import applied
from vsprov.plan.observed import ObservedServer
from vsprov.plan.reconcile import reconcile
from vsprov.store import images
from vsprov.store.instance import Instance

LAST_LINES = 10  # of the log

Details = Callable[[str, SituationWithWeights, Instance], dict[str, Any]]


def describe(kind: str, name: str, now: SituationWithWeights, instance: Instance) -> dict[str, Any]:
    """The document of an object with its `details`. KeyError if it does not exist."""
    found = documents.document(kind, name, now, measured=instance)
    details = DETAILS.get(kind)
    return {**found, "details": details(name, now, instance) if details else {}}


def _server(name: str, now: SituationWithWeights, instance: Instance) -> dict[str, Any]:
    """What it runs, what differs from what was last applied, the processes, how it ended before, and the end
    of the log.
    """
    from vsprov.engine.logs.files import last_lines

    seen = now.observed.servers[name]
    home = now.hierarchies.directory("", seen.group.path) if seen.group else ""
    running = [asdict(one) for one in processes.listing(instance) if one.server == name]
    return {
        "command": _command(seen, instance),
        "differences": _differences(seen, now),
        "processes": [{key: value for key, value in one.items() if key != "server"} for one in running],
        "exits": last_exit.history(home) if home else [],
        "log": last_lines(instance, name, LAST_LINES) if seen.directory else [],
    }


def _command(seen: ObservedServer, instance: Instance) -> list[str]:
    """What its pid 1 executes, with the defaults of its image; [] if that is not known."""
    if seen.applied is None:
        return []
    spec = applied.to_object(seen.name, seen.applied).spec
    assert isinstance(spec, Server)
    try:
        config = images.contents(instance, seen.applied["image"]).config
    except VsprovError:  # its record is damaged, as `image verify` says
        config = {}
    return list(init_of(spec.init, config).command)


def _differences(seen: ObservedServer, now: SituationWithWeights) -> list[dict[str, Any]]:
    """What was changed since the server was applied, with the image that it has. One that nobody has stopped
    should be running.
    """
    if seen.applied is None:
        return []
    recorded = applied.to_object(seen.name, seen.applied)
    assert isinstance(recorded.spec, Server)
    state: Any = seen.wanted_state if seen.stopped else "Running"
    want = replace(recorded, spec=replace(recorded.spec, state=state))
    image: str = seen.applied["spec"]["image"]
    wanted = Wanted(
        now.instance, f"{now.instance}/{EVERY_SET}", (want,), {image: seen.applied["image"]}, selected=True
    )
    plan = reconcile(wanted, now.observed, now.machine)
    return [
        {"path": path.path, "before": path.shown[0], "after": path.shown[1], "disruption": path.cost}
        for change in plan.objects
        if change.address == want.address
        for path in change.paths
    ]


def _image(name: str, now: SituationWithWeights, instance: Instance) -> dict[str, Any]:
    """Its disk usage, layers, and the servers that use it."""
    from vsprov.engine.images import imagestore

    (view,) = (view for view in imagestore.look(instance) if view.record.name == name)
    contents = view.record.contents
    return {
        "size": view.share.total,
        "shared": view.share.shared,
        "private": view.share.private,
        "layers": list(contents.layers) if contents else [],
        "defaults": dict(contents.config) if contents else {},
        "usedBy": list(view.used_by),
        "problem": view.record.problem or None,
    }


def _quota(name: str, now: SituationWithWeights, instance: Instance) -> dict[str, Any]:
    """The servers in a pool."""
    inside = f"{now.observed.pools[name].path}/"
    return {
        "servers": [
            documents.document("Server", seen.name, now)
            for seen in now.observed.servers.values()
            if seen.group and seen.group.path.startswith(inside)
        ]
    }


def _network(name: str, now: SituationWithWeights, instance: Instance) -> dict[str, Any]:
    """The interfaces on a network."""
    return {
        "interfaces": [
            {"server": seen.name, **one}
            for seen in now.observed.servers.values()
            if seen.applied and seen.applied["spec"].get("interfaces")
            for one in documents.document("Server", seen.name, now)["status"]["interfaces"]
            if one["network"] == name
        ]
    }


def _volume(name: str, now: SituationWithWeights, instance: Instance) -> dict[str, Any]:
    """Where running servers have it mounted."""
    return {
        "mounts": [
            {"server": seen.name, "target": one.target, "readOnly": one.read_only}
            for seen in now.observed.servers.values()
            for one in seen.live.get(MOUNTS, ())
            if one.volume == name
        ]
    }


DETAILS: dict[str, Details] = {
    "Server": _server,
    "Image": _image,
    "Quota": _quota,
    "Network": _network,
    "Volume": _volume,
}
