"""What no schema can say of a manifest: checks across its documents.

A check is one function in `CHECKS` or `REFERENCES`, called once, that yields the problems it finds. Those
that look at one object by itself are in `check_object`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vsprov.errors import Problem
from vsprov.manifest import check_image, check_object
from vsprov.manifest.check_object import MOST_SUGGESTIONS, NAME
from vsprov.manifest.problems import Path, did_you_mean, position_of
from vsprov.manifest.resolve import Item
from vsprov.model.defaults import lacks_command
from vsprov.model.objects import Image, Quota, Server

# Every cgroup v1 directory has a file `tasks`, so that no group can be made there (mkdir(2): EEXIST).
RESERVED = {"tasks": "every cgroup has a file of this name", "host": "it means the machine itself"}
SPEC_IMAGE: Path = ("spec", "image")
SPEC_QUOTA: Path = ("spec", "quota")
BUILT_FROM: Path = ("spec", "source", "build", "from")
MOST_CYCLES = 20


@dataclass(frozen=True, slots=True)
class Draft:
    """A manifest before it is accepted. `images` are those that are there without it, None when unknown."""

    items: Sequence[Item]
    by_address: Mapping[str, Item]
    images: frozenset[str] | None

    def names(self, kind: str) -> set[str]:
        """The names of a kind, also of those that could not be read further."""
        return {address.partition("/")[2] for address in self.by_address if address.startswith(f"{kind}/")}

    def built(self) -> Iterator[tuple[Item, str]]:
        """The images that are built on another, with its name."""
        for item in self.items:
            spec = item.object.spec if item.object is not None else None
            if isinstance(spec, Image) and spec.source.build is not None:
                yield item, spec.source.build.from_

    def servers(self) -> Iterator[tuple[Item, Server]]:
        for item in self.items:
            if item.object is not None and isinstance(item.object.spec, Server):
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
    draft = Draft(items, by_address, images)
    checks = (*CHECKS, *REFERENCES) if references else CHECKS
    found = [problem for one in checks for problem in one(draft)]
    for item in items:
        found += check_object.check(item)
        if item.object is not None and isinstance(item.object.spec, Image):
            for each in check_image.IMAGE_CHECKS:
                found += each(item, item.object.spec)
    return found


def duplicates(draft: Draft) -> Iterator[Problem]:
    for item in draft.items:
        first = draft.by_address[item.address]
        if item.address and first is not item:
            place = position_of(first.document, NAME)
            where = f" in {place}" if place else ""
            yield item.problem(NAME, f"{item.address} is already described{where}")


def groups(draft: Draft) -> Iterator[Problem]:
    """Servers and pools are groups next to each other."""
    for item in draft.items:
        spec = item.object.spec if item.object else None
        if isinstance(spec, Server) or (isinstance(spec, Quota) and spec.scope == "pool"):
            name = item.address.split("/")[1]
            if name in RESERVED:
                yield item.problem(NAME, f"no server or pool can have the name {name}: {RESERVED[name]}")
            other = draft.by_address.get(f"Server/{name}")
            if isinstance(spec, Quota) and other is not None:
                place = position_of(other.document, NAME)
                where = f" in {place}" if place else ""
                message = f"a pool cannot have the name of a server, and there is a Server {name}{where}"
                yield item.problem(NAME, message, "their groups would stand in the same place")


def missing_images(draft: Draft) -> Iterator[Problem]:
    uses = [(item, SPEC_IMAGE, server.image) for item, server in draft.servers()]
    uses += [(item, BUILT_FROM, name) for item, name in draft.built()]
    if draft.images is None:
        yield from _missing("Image", draft.names("Image"), uses, elsewhere="apply needs it in the store")
    else:
        yield from _missing("Image", draft.names("Image") | draft.images, uses)


def missing_commands(draft: Draft) -> Iterator[Problem]:
    """Only images of the OCI kind, and what is built on others, bring a command."""
    for item, server in draft.servers():
        other = draft.by_address.get(f"Image/{server.image}")
        spec = other.object.spec if other is not None and other.object is not None else None
        bare = isinstance(spec, Image) and spec.source.oci is None and spec.source.build is None
        if bare and not server.init.command:
            message = lacks_command(server.image)
            yield item.problem(("spec", "init", "command"), message, "command: [/bin/sh, -c, …]")


def missing_quotas(draft: Draft) -> Iterator[Problem]:
    uses = ((item, SPEC_QUOTA, server.quota) for item, server in draft.servers() if server.quota is not None)
    yield from _missing("Quota", draft.names("Quota"), uses)


def missing_dependencies(draft: Draft) -> Iterator[Problem]:
    uses = (
        (item, _dependency(i), dependency.name)
        for item, server in draft.servers()
        for i, dependency in enumerate(server.depends_on)
    )
    yield from _missing("Server", draft.names("Server"), uses)


def idle_dependencies(draft: Draft) -> Iterator[Problem]:
    """A dependency that is there twice, or that waits for what is not to run."""
    for item, server in draft.servers():
        seen = set()
        for i, dependency in enumerate(server.depends_on):
            if dependency.name in seen:
                yield item.problem(_dependency(i), f"{dependency.name} is listed twice")
            elif server.state == "Running" and _is_stopped(draft, dependency.name):
                message = f"{dependency.name} is to be Stopped, and this server waits for it to start"
                hint = "stop this server too, or drop the dependency"
                yield item.problem(_dependency(i), message, hint, warning=True)
            seen.add(dependency.name)


def cycles(draft: Draft) -> Iterator[Problem]:
    """Cycles, each at the dependency that closes it, and not more than a few."""
    yield from itertools.islice(_cycles(draft), MOST_CYCLES)


def circular_builds(draft: Draft) -> Iterator[Problem]:
    """Images that are built on themselves, by way of others or not."""
    base = {item.address.partition("/")[2]: (item, name) for item, name in draft.built()}
    done: set[str] = set()
    for start in base:
        way: list[str] = []
        name = start
        while name in base and name not in done:
            if name in way:
                shown = " → ".join([*way[way.index(name) :], name])
                yield base[way[-1]][0].problem(BUILT_FROM, f"is built on itself: {shown}")
                break
            way.append(name)
            name = base[name][1]
        done.update(way)


def _cycles(draft: Draft) -> Iterator[Problem]:
    after = {}
    for item, server in draft.servers():
        after[item.address.partition("/")[2]] = [dependency.name for dependency in server.depends_on]
    done: set[str] = set()
    for start in after:
        # The servers from `start` to where we are, each with what is left of its dependencies.
        way: dict[str, Iterator[str]] = {}
        name: str | None = start
        while name is not None:
            if name in way:
                yield _cycle(draft, [*way], name, after)
            elif name in after and name not in done:
                way[name] = iter(after[name])
            name = None
            while way and name is None:
                last = next(reversed(way))
                name = next(way[last], None)
                if name is None:
                    done.add(last)
                    del way[last]


def _cycle(draft: Draft, way: list[str], closing: str, after: Mapping[str, list[str]]) -> Problem:
    shown = [*way[way.index(closing) :], closing]
    if len(shown) > 12:
        shown = [*shown[:8], "…", *shown[-3:]]
    path = _dependency(after[way[-1]].index(closing))
    return draft.by_address[f"Server/{way[-1]}"].problem(path, f"depends on itself: {' → '.join(shown)}")


def _missing(
    kind: str, known: set[str], uses: Iterable[tuple[Item, Path, str]], elsewhere: str = ""
) -> Iterator[Problem]:
    """A problem for each name that is used and not known; for the first ones with a suggestion. A warning
    where it may be `elsewhere`.
    """
    for number, (item, path, name) in enumerate(use for use in uses if use[2] not in known):
        close = did_you_mean(name, known) if number < MOST_SUGGESTIONS else ""
        if elsewhere:
            message = f"{kind} {name} is not in these files; {elsewhere}{close}"
            yield item.problem(path, message, warning=True)
        else:
            hint = f"add a document of kind {kind} for it"
            yield item.problem(path, f"there is no {kind} {name}{close}", hint)


def _dependency(place: int) -> Path:
    return ("spec", "dependsOn", place, "name")


def _is_stopped(draft: Draft, name: str) -> bool:
    item = draft.by_address.get(f"Server/{name}")
    spec = item.object.spec if item and item.object else None
    return isinstance(spec, Server) and spec.state == "Stopped"


CHECKS: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    duplicates,
    groups,
    idle_dependencies,
    cycles,
    circular_builds,
)
REFERENCES: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    missing_images,
    missing_commands,
    missing_quotas,
    missing_dependencies,
)
