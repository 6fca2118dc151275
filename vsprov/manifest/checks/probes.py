"""Checks of the probes of servers, and of conditions to wait for."""

from __future__ import annotations

from collections.abc import Iterator

from vsprov.errors import Problem
from vsprov.manifest.checks.paths import wrong_path
from vsprov.manifest.checks.view import ManifestView
from vsprov.manifest.resolve import Item
from vsprov.model.fields import Path
from vsprov.model.kinds.sections.probes import Health
from vsprov.model.kinds.server import Server
from vsprov.model.values.units import format_duration

SHORTEST = 100_000  # microseconds between probes: each is a request or even a process


def probes(item: Item, server: Server) -> Iterator[Problem]:
    """Probes that cannot succeed, or that would cost more than they tell."""
    for name, probe in (("readiness", server.readiness), ("health", server.health)):
        if probe is not None:
            yield from _probe(item, ("spec", name), probe)


def conditions(view: ManifestView) -> Iterator[Problem]:
    """Conditions in which a server can never be."""
    for item, server in view.all(Server):
        for i, dependency in enumerate(server.depends_on):
            other = view.spec(Server, dependency.name)
            if other is None:
                continue
            missing, hint = {
                "ready": (other.readiness is None, "readiness"),
                "healthy": (other.health is None, "health"),
                "completed": (not other.init.oneshot, "init.oneshot: true"),
            }.get(dependency.condition, (False, ""))
            if missing:
                message = f"{dependency.name} cannot become {dependency.condition}: it has no {hint}"
                path: Path = ("spec", "dependsOn", i, "condition")
                yield item.problem(path, message, "add that to it, or omit the condition")


def _probe(item: Item, path: Path, probe: Health) -> Iterator[Problem]:
    if probe.exec[:1] == ("",):
        yield item.problem((*path, "exec", 0), "the program name is empty")
    if probe.file is not None and (wrong := wrong_path(probe.file)):
        yield item.problem((*path, "file"), wrong)
    if probe.interval < SHORTEST:
        yield item.problem((*path, "interval"), f"is below {format_duration(SHORTEST)}, the minimum")
    if probe.timeout <= 0:
        yield item.problem((*path, "timeout"), "no probe can succeed in no time", "omit it for 1s")
