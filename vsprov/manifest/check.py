"""What no schema can say of a manifest: checks across its documents.

A check is one function in `CHECKS` or `REFERENCES`, called once, that yields the problems it finds. Those
that look at one object by itself are in `check_object` and `check_image`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from vsprov.errors import Problem
from vsprov.manifest import check_image, check_object
from vsprov.manifest.check_object import MOST_SUGGESTIONS, NAME
from vsprov.manifest.problems import Path, position_of
from vsprov.manifest.resolve import Item
from vsprov.model.defaults import lacks_command
from vsprov.model.objects import Image, Quota, Server, Spec
from vsprov.model.suggest import did_you_mean
from vsprov.model.traits import marked

T = TypeVar("T", bound=Spec)

# Every cgroup v1 directory has a file `tasks`, so that no group can be made there (mkdir(2): EEXIST).
RESERVED = {"tasks": "every cgroup has a file of this name", "host": "it means the machine itself"}
BUILT_FROM: Path = ("spec", "source", "build", "from")
MOST_CYCLES = 10


@dataclass(frozen=True, slots=True)
class ManifestView:
    """A manifest before it is accepted. `images` are those that are there without it, None when unknown."""

    items: Sequence[Item]
    by_address: Mapping[str, Item]
    images: frozenset[str] | None

    def names(self, kind: str) -> set[str]:
        """The names of a kind, also of those that could not be read further."""
        return {address.partition("/")[2] for address in self.by_address if address.startswith(f"{kind}/")}

    def spec(self, kind: type[T], name: str) -> T | None:
        """What is wanted of the object with this name; None if that is missing or could not be read."""
        item = self.by_address.get(f"{kind.__name__}/{name}")
        spec = item.object.spec if item is not None and item.object is not None else None
        return spec if isinstance(spec, kind) else None

    def all(self, kind: type[T]) -> Iterator[tuple[Item, T]]:
        """The objects of a kind that could be read."""
        for item in self.items:
            if item.object is not None and isinstance(item.object.spec, kind):
                yield item, item.object.spec


def check(
    items: Sequence[Item], images: frozenset[str] | None = frozenset(), *, references: bool = True
) -> list[Problem]:
    """The problems of the manifest as a whole and of its objects, warnings among them; without `references`
    not what its objects refer to and is not there.
    """
    by_address: dict[str, Item] = {}
    for item in items:
        by_address.setdefault(item.address, item)
    view = ManifestView(items, by_address, images)
    checks = (*CHECKS, *REFERENCES) if references else CHECKS
    found = [problem for one in checks for problem in one(view)]
    for item in items:
        found += check_object.check(item)
        if item.object is not None and isinstance(item.object.spec, Image):
            for each in check_image.IMAGE_CHECKS:
                found += each(item, item.object.spec)
    return found


def duplicates(view: ManifestView) -> Iterator[Problem]:
    for item in view.items:
        first = view.by_address[item.address]
        if item.address and first is not item:
            place = position_of(first.document, NAME)
            where = f" in {place}" if place else ""
            yield item.problem(NAME, f"{item.address} is already described{where}")


def groups(view: ManifestView) -> Iterator[Problem]:
    """Servers and pools are groups next to each other."""
    for item in view.items:
        spec = item.object.spec if item.object else None
        if isinstance(spec, Server) or (isinstance(spec, Quota) and spec.scope == "pool"):
            name = item.address.split("/")[1]
            if name in RESERVED:
                yield item.problem(NAME, f"no server or pool can have the name {name}: {RESERVED[name]}")
            other = view.by_address.get(f"Server/{name}")
            if isinstance(spec, Quota) and other is not None:
                place = position_of(other.document, NAME)
                where = f" in {place}" if place else ""
                message = f"a pool cannot have the name of a server, and there is a Server {name}{where}"
                yield item.problem(NAME, message, "their groups would stand in the same place")


def idle_dependencies(view: ManifestView) -> Iterator[Problem]:
    """A dependency that is there twice, or that waits for what is not to run."""
    for item, server in view.all(Server):
        seen = set()
        for i, dependency in enumerate(server.depends_on):
            other = view.spec(Server, dependency.name)
            if dependency.name in seen:
                yield item.problem(_dependency(i), f"{dependency.name} is listed twice")
            elif server.state == "Running" and other is not None and other.state == "Stopped":
                message = f"{dependency.name} is to be Stopped, and this server waits for it to start"
                hint = "stop this server too, or drop the dependency"
                yield item.problem(_dependency(i), message, hint, warning=True)
            seen.add(dependency.name)


def circular_dependencies(view: ManifestView) -> Iterator[Problem]:
    """Servers that depend on themselves, each at the dependency that closes the cycle."""
    servers = {item.address.partition("/")[2]: (item, server) for item, server in view.all(Server)}
    after = {name: [one.name for one in server.depends_on] for name, (_, server) in servers.items()}
    for *way, closing in _cycles(after):
        path = _dependency(after[way[-1]].index(closing))
        yield servers[way[-1]][0].problem(path, f"depends on itself: {_arrows([*way, closing])}")


def circular_builds(view: ManifestView) -> Iterator[Problem]:
    """Images that are built on themselves, by way of others or not."""
    built = {
        item.address.partition("/")[2]: (item, [image.source.build.from_])
        for item, image in view.all(Image)
        if image.source.build is not None
    }
    for *way, closing in _cycles({name: base for name, (_, base) in built.items()}):
        yield built[way[-1]][0].problem(BUILT_FROM, f"is built on itself: {_arrows([*way, closing])}")


def _cycles(edges: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Cycles of a graph, not more than a few: names from the first one round to it again."""
    rest = {name: list(dict.fromkeys(others)) for name, others in edges.items()}
    for _ in range(MOST_CYCLES):
        # What a node "precedes" are the edges that are followed, in the order of their nodes.
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
            rest[cycle[-2]].remove(cycle[-1])  # so that the next one is found


def _arrows(names: list[str]) -> str:
    return " → ".join(names if len(names) <= 12 else [*names[:8], "…", *names[-3:]])


def missing_references(view: ManifestView) -> Iterator[Problem]:
    """Names of objects that are not there, with a suggestion for the first ones of a kind."""
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
            if kind == "Image" and view.images is None:
                message = f"{kind} {name} is not in these files; apply needs it in the store{close}"
                yield item.problem(path, message, warning=True)
            else:
                hint = f"add a document of kind {kind} for it"
                yield item.problem(path, f"there is no {kind} {name}{close}", hint)


def missing_commands(view: ManifestView) -> Iterator[Problem]:
    """Only images of the OCI kind, and what is built on others, bring a command."""
    for item, server in view.all(Server):
        image = view.spec(Image, server.image)
        bare = image is not None and image.source.oci is None and image.source.build is None
        if bare and not server.init.command:
            message = lacks_command(server.image)
            yield item.problem(("spec", "init", "command"), message, "command: [/bin/sh, -c, …]")


def _dependency(place: int) -> Path:
    return ("spec", "dependsOn", place, "name")


CHECKS: tuple[Callable[[ManifestView], Iterator[Problem]], ...] = (
    duplicates,
    groups,
    idle_dependencies,
    circular_dependencies,
    circular_builds,
)
REFERENCES: tuple[Callable[[ManifestView], Iterator[Problem]], ...] = (missing_references, missing_commands)
