"""The instance: the id ranges of its servers, and the keeper of their output."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vsprov.engine.doctor.finding import Finding
from vsprov.engine.logs import settled
from vsprov.engine.look import observe
from vsprov.errors import VsprovError
from vsprov.kernel.cgroup import Hierarchies
from vsprov.plan import range_problems
from vsprov.plan.observed import Machine
from vsprov.store import claims
from vsprov.store.instance import Instance


def id_ranges(instance: Instance, hierarchies: Hierarchies, machine: Machine) -> Iterator[Finding]:
    """Problems of the id ranges of servers, and claims of instances whose state root does not exist."""
    try:
        host = claims.read(instance)
        seen = observe.observe(instance, hierarchies, machine)
    except VsprovError as error:
        yield Finding("id ranges", "degraded", str(error), error.hint)
        return
    found = range_problems.problems(seen.servers, host)
    for name, problem in found.items():
        yield Finding("id ranges", "degraded", f"Server/{name}: {problem.message}", problem.hint)
    for holder, blocks in claims.gone(host).items():
        name, _, root = holder.partition(" ")
        files = " ".join(f"{claims.FOLDER}/{block}" for block in sorted(blocks))
        cost = f"if it was removed for good, free its ids: rm {files}"
        yield Finding("id ranges", "degraded", f"instance {name}: no state root {root}", cost)
    if not found:
        yield Finding("id ranges", "ok", f"{len(seen.id_bases())} in use")


def consoles(instance: Instance, hierarchies: Hierarchies, machine: Machine) -> Iterator[Finding]:
    """The system servers whose consoles have hung up; nothing if there is none."""
    if os.geteuid() != 0 or not os.path.isdir(instance.servers):
        return
    from vsprov.engine.guests import terminal

    try:
        names = terminal.lost(instance, observe.observe(instance, hierarchies, machine))
    except VsprovError:
        return  # `id_ranges` says so
    if names:
        cost = "what these servers write there is lost; vsprov apply opens others"
        yield Finding("consoles", "degraded", f"hung up: {' '.join(sorted(names))}", cost)


def keeper(instance: Instance) -> Iterator[Finding]:
    """The servers whose output no keeper copies; nothing if no server was created."""
    if os.geteuid() != 0 or not os.path.isdir(instance.servers):
        return
    if names := settled.unattended(instance):
        found = f"none that copies the output of {' '.join(sorted(names))}"
        cost = "logs lack the end, and servers block when 256 KiB wait; vsprov apply starts the keeper"
        yield Finding("keeper", "degraded", found, cost)
    else:
        yield Finding("keeper", "ok", "")
