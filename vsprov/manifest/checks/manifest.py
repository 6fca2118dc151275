"""Checks across the documents of a manifest.

Each check is a function in `CHECKS` or `REFERENCES` that yields the problems it finds. Checks of single
objects are in the other modules; `objects` calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from vsprov.errors import Problem
from vsprov.manifest.checks import objects, probes
from vsprov.manifest.checks.networks import addresses, connections, firewall, ports
from vsprov.manifest.checks.objects import MOST_SUGGESTIONS, NAME
from vsprov.manifest.checks.view import ManifestView
from vsprov.manifest.problems import position_of
from vsprov.manifest.resolve import Item
from vsprov.model.defaults import lacks_command
from vsprov.model.fields import Path
from vsprov.model.kinds.image import Image
from vsprov.model.kinds.quota import Quota
from vsprov.model.kinds.server import Server
from vsprov.model.suggest import did_you_mean
from vsprov.model.traits import marked
from vsprov.model.values.styles import is_system

# Every cgroup v1 directory contains a file `tasks`, so that no group can have this name (mkdir(2): EEXIST).
RESERVED = {"tasks": "every cgroup contains a file with this name", "host": "it refers to the host itself"}
PLACES = {"Image": "the store", "Network": "the instance"}  # of objects that need not be in the manifest
BUILT_FROM: Path = ("spec", "source", "build", "from")
MOST_CYCLES = 10


def check(
    items: Sequence[Item], images: frozenset[str] | None = frozenset(), *, references: bool = True
) -> list[Problem]:
    """The problems and warnings of the manifest and its objects; without `references`, none about missing
    objects.
    """
    by_address: dict[str, Item] = {}
    for item in items:
        by_address.setdefault(item.address, item)
    view = ManifestView(items, by_address, images)
    checks = (*CHECKS, *REFERENCES) if references else CHECKS
    found = [problem for one in checks for problem in one(view)]
    for item in items:
        found += objects.check(item)
    return found


def duplicates(view: ManifestView) -> Iterator[Problem]:
    """Objects that are defined more than once; `resolve` has left out copies in other files."""
    for item in view.items:
        first = view.by_address[item.address]
        if item.address and first is not item:
            place = position_of(first.document, NAME)
            where = f" in {place}" if place else ""
            hint = (
                "" if first.file == item.file else "a document may be in several files if it is equal in all"
            )
            yield item.problem(NAME, f"{item.address} is already defined{where}", hint)


def renames(view: ManifestView) -> Iterator[Problem]:
    """Names that servers and volumes had before and that the manifest still has, or has twice."""
    path: Path = ("metadata", "renamedFrom")
    seen: dict[str, str] = {}
    for item in view.items:
        if item.object is None or item.object.renamed_from is None:
            continue
        kind, old = item.object.kind, item.object.renamed_from
        address = f"{kind}/{old}"
        if address in view.by_address:
            message = f"the manifest still has {address}"
            hint = f"remove the key once the {kind.lower()} is renamed" if item.address != address else ""
            yield item.problem(path, message, hint)
        elif address in seen:
            yield item.problem(path, f"{seen[address]} is renamed from {old}, too")
        seen.setdefault(address, item.address)


def groups(view: ManifestView) -> Iterator[Problem]:
    """The control groups of servers and pools have the same parent."""
    for item in view.items:
        spec = item.object.spec if item.object else None
        if isinstance(spec, Server) or (isinstance(spec, Quota) and spec.scope == "pool"):
            name = item.address.split("/")[1]
            if name in RESERVED:
                yield item.problem(NAME, f"the name {name} is reserved: {RESERVED[name]}")
            other = view.by_address.get(f"Server/{name}")
            if isinstance(spec, Quota) and other is not None:
                place = position_of(other.document, NAME)
                where = f" in {place}" if place else ""
                message = f"the name is already used by Server/{name}{where}"
                yield item.problem(NAME, message, "a server and a pool cannot have the same name")


def idle_dependencies(view: ManifestView) -> Iterator[Problem]:
    """Duplicate dependencies, and dependencies on servers that should not run."""
    for item, server in view.all(Server):
        seen = set()
        for i, dependency in enumerate(server.depends_on):
            other = view.spec(Server, dependency.name)
            if dependency.name in seen:
                yield item.problem(_dependency(i), f"duplicate dependency {dependency.name}")
            elif server.state == "Running" and other is not None and other.state == "Stopped":
                message = f"{dependency.name} has state Stopped, but this server waits for it to start"
                hint = "stop this server too, or remove the dependency"
                yield item.problem(_dependency(i), message, hint, warning=True)
            seen.add(dependency.name)


def circular_dependencies(view: ManifestView) -> Iterator[Problem]:
    """Cycles of servers, each reported at the dependency that closes it."""
    servers = {item.address.partition("/")[2]: (item, server) for item, server in view.all(Server)}
    after = {name: [one.name for one in server.depends_on] for name, (_, server) in servers.items()}
    for *way, closing in _cycles(after):
        path = _dependency(after[way[-1]].index(closing))
        yield servers[way[-1]][0].problem(path, f"circular dependency: {_arrows([*way, closing])}")


def circular_builds(view: ManifestView) -> Iterator[Problem]:
    """Cycles of images that are built from each other."""
    built = {
        item.address.partition("/")[2]: (item, [image.source.build.from_])
        for item, image in view.all(Image)
        if image.source.build is not None
    }
    for *way, closing in _cycles({name: base for name, (_, base) in built.items()}):
        yield built[way[-1]][0].problem(BUILT_FROM, f"circular build: {_arrows([*way, closing])}")


def _cycles(edges: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Up to MOST_CYCLES cycles of a graph, as names of which the first and the last are equal."""
    rest = {name: list(dict.fromkeys(others)) for name, others in edges.items()}
    for _ in range(MOST_CYCLES):
        # Nodes are added as predecessors of their targets, so that edges are followed in the given order.
        sorter = TopologicalSorter(dict.fromkeys(rest, ()))
        for name, others in rest.items():
            for other in others:
                sorter.add(other, name)
        try:
            sorter.prepare()
            return
        except CycleError as error:
            cycle: list[str] = error.args[1]
            yield cycle
            rest[cycle[-2]].remove(cycle[-1])  # break the cycle to find the next one


def _arrows(names: list[str]) -> str:
    return " → ".join(names if len(names) <= 12 else [*names[:8], "…", *names[-3:]])


def missing_references(view: ManifestView) -> Iterator[Problem]:
    """References to missing objects. Only the first ones of a kind get a suggestion."""
    uses: dict[str, list[tuple[Item, Path, str]]] = {}
    for item in view.items:
        if item.object is not None:
            for path, key, name in marked(item.object.spec, "refers", ("spec",)):
                uses.setdefault(key.refers, []).append((item, path, name))
    for kind, found in uses.items():
        known = view.names(kind) | (view.images or set() if kind == "Image" else set())
        missing = (use for use in found if use[2] not in known)
        for number, (item, path, name) in enumerate(missing):
            close = did_you_mean(name, known) if number < MOST_SUGGESTIONS else ""
            if kind in PLACES and view.images is None:
                message = f"{kind}/{name} is not defined here; apply requires it in {PLACES[kind]}{close}"
                yield item.problem(path, message, warning=True)
            elif kind != "Network":  # the plan knows those of other manifests
                hint = f"add a document of kind {kind} with this name"
                yield item.problem(path, f"{kind}/{name} not found{close}", hint)


def missing_commands(view: ManifestView) -> Iterator[Problem]:
    """Servers without a command. Only OCI images, and images made from others, can have a default command; a
    command with an error is reported by the schema and not missing.
    """
    path: Path = ("spec", "init", "command")
    for item, server in view.all(Server):
        image = view.spec(Image, server.image)
        bare = image is not None and image.source.kind not in ("oci", "build", "commit")
        system = is_system(server.init.style)
        if bare and not system and not server.init.command and item.omits(path):
            yield item.problem(path, lacks_command(server.image), "command: [/bin/sh, -c, …]")


def _dependency(place: int) -> Path:
    return ("spec", "dependsOn", place, "name")


CHECKS: tuple[Callable[[ManifestView], Iterator[Problem]], ...] = (
    duplicates,
    renames,
    groups,
    idle_dependencies,
    probes.conditions,
    circular_dependencies,
    circular_builds,
    connections.overlapping_networks,
    connections.duplicate_macs,
    connections.shared_macs,
    connections.default_routes,
    connections.wrong_next_hops,
    connections.wrong_mtus,
    connections.host_network,
    connections.unfiltered,
    addresses.wrong_addresses,
    addresses.duplicate_addresses,
    ports.port_families,
    ports.duplicate_ports,
    firewall.ambiguous_peers,
)
REFERENCES: tuple[Callable[[ManifestView], Iterator[Problem]], ...] = (
    missing_references,
    missing_commands,
    firewall.unknown_peers,
)
