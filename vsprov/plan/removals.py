"""What goes: objects a destroy names, and with --prune those of this set that the manifest no longer has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from vsprov.model.cost import Cost
from vsprov.model.objects import Image, Object, Server
from vsprov.plan import servers
from vsprov.plan.draft import Draft
from vsprov.plan.observed import ObservedServer
from vsprov.plan.plan import Change
from vsprov.plan.steps import RemoveDirectory, RemoveGroup, RemoveImage, Step


def plan(draft: Draft) -> None:
    """Servers go before their pools and images, and before the servers they depend on."""
    gone = {change.address: change for change in (*_servers(draft), *_pools(draft), *_images(draft))}
    after: dict[str, list[str]] = {address: [] for address in gone}
    for seen in draft.observed.servers.values():
        for target in needs(seen):
            if target in after:
                # A server that stays is changed first: it moves to another image or pool.
                after[target].append(f"Server/{seen.name}")
    for address, change in gone.items():
        draft.add(address, replace(change, after=tuple(after[address])))


def needs(seen: ObservedServer) -> Iterable[str]:
    """The addresses of what a server, as it is, cannot be without."""
    if seen.group and seen.group.path.count("/") == 2:
        yield f"Quota/{seen.group.path.split('/')[1]}"
    if seen.applied:
        yield f"Image/{seen.applied['spec']['image']}"
        for dependency in seen.applied["spec"].get("dependsOn", ()):
            yield f"Server/{dependency['name']}"


def _servers(draft: Draft) -> Iterable[Change]:
    for seen in draft.observed.servers.values():
        if not _goes(draft, "Server", seen.name, _owner(seen), draft.servers):
            draft.populated = draft.populated or seen.group is not None
            continue
        address = f"Server/{seen.name}"
        if seen.group and draft.foreign(address, seen.group.owner, f"cgroup {seen.group.path}"):
            draft.populated = True
            continue
        steps: list[Step] = []
        if seen.init or seen.populated:
            steps.append(servers.stop_step(seen, draft.observed.defaults))
        if seen.group:
            steps.append(RemoveGroup(seen.group.path))
        if seen.directory:
            steps.append(RemoveDirectory(seen.name))
        yield _removal("Server", seen.name, steps, servers.observed_spec(seen))


def _pools(draft: Draft) -> Iterable[Change]:
    for name, pool in draft.observed.pools.items():
        if not _goes(draft, "Quota", name, pool.owner, draft.pools):
            draft.populated = True
        elif left := _users(draft, f"Quota/{name}"):
            draft.problem(f"Quota/{name}", f"cannot be removed: {', '.join(left)} would stay in it")
        else:
            yield _removal("Quota", name, [RemoveGroup(pool.path)], pool.applied or {})


def _images(draft: Draft) -> Iterable[Change]:
    wanted = {want.name: want for want in draft.wanted.objects if want.kind == "Image"}
    for name, image in draft.observed.images.items():
        if not _goes(draft, "Image", name, image.owner, wanted):
            continue
        if left := _users(draft, f"Image/{name}"):
            draft.problem(f"Image/{name}", f"cannot be removed: used by {', '.join(left)}")
        else:
            yield _removal("Image", name, [RemoveImage(name)], dict(image.spec))


def server_would_go(draft: Draft, seen: ObservedServer) -> bool:
    """Whether a server that the manifest does not have is to be removed."""
    return would_go(draft, "Server", seen.name, _owner(seen))


def _owner(seen: ObservedServer) -> str | None:
    return seen.owner if seen.directory else seen.group.owner if seen.group else None


def _users(draft: Draft, address: str) -> list[str]:
    """The servers that need an image or pool once the plan is done, and the images built on it."""
    found = []
    for name, want in draft.servers.items():
        assert isinstance(want.spec, Server)
        if address in (f"Image/{want.spec.image}", f"Quota/{want.spec.quota}"):
            found.append(name)
    for want in draft.wanted.objects:
        build = want.spec.source.build if isinstance(want.spec, Image) else None
        if build is not None and address == f"Image/{build.from_}":
            found.append(want.address)
    for name, seen in draft.observed.servers.items():
        if name not in draft.servers and not server_would_go(draft, seen) and address in needs(seen):
            found.append(name)
    return sorted(found)


def _goes(draft: Draft, kind: str, name: str, owner: str | None, kept: Mapping[str, Object]) -> bool:
    if name in kept:
        return False
    if f"{kind}/{name}" in draft.wanted.remove:
        return not draft.foreign(f"{kind}/{name}", owner, f"{kind.lower()} {name}")
    whole = draft.wanted.objects and not draft.wanted.selected
    if whole and owner == draft.wanted.owner and not draft.wanted.prune:
        draft.unlisted.append(f"{kind}/{name}")
    return would_go(draft, kind, name, owner)


def would_go(draft: Draft, kind: str, name: str, owner: str | None) -> bool:
    """Whether an object that the manifest does not have is to be removed."""
    return f"{kind}/{name}" in draft.wanted.remove or (draft.wanted.prune and owner == draft.wanted.owner)


def _removal(kind: str, name: str, steps: list[Step], before: Mapping[str, Any]) -> Change:
    cost: Cost = "recreate" if kind == "Server" else "none"  # what a server has written goes with it
    return Change(kind, name, "delete", cost, "not in the manifest", before=before, steps=tuple(steps))
