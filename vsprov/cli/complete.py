"""Completion of names on the command line; what cannot be read completes to nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from vsprov.cli import complete_paths
from vsprov.cli import schemas as packaged
from vsprov.cli.verb import instance_of
from vsprov.store.instance import Instance

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def matching(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    """Completion with those of the names that begin with what was typed."""
    return lambda ctx, param, typed: [name for name in names(ctx) if name.startswith(typed)]


@matching
def servers(ctx: click.Context) -> list[str]:
    """Names of servers that have a directory."""
    return _names(_instance(ctx).servers, "")


def places(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Files of the host, and names of servers as the beginning of SERVER:PATH."""
    from click.shell_completion import CompletionItem

    names = [CompletionItem(f"{name}:") for name in servers(ctx, param, typed)]
    return complete_paths.files(ctx, param, typed) + names


def snapshots(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Names of the snapshots of the server that is on the command line."""
    from vsprov.store.disk.folders import SNAPSHOTS

    # While the value of an option is missing, click has assigned no arguments.
    server = str(ctx.params.get("name") or next(iter(ctx.args), "")).rpartition("/")[2]
    found = _names(f"{_instance(ctx).servers}/{server}/{SNAPSHOTS}", "")
    return [name for name in found if name.startswith(typed)]


@matching
def images(ctx: click.Context) -> list[str]:
    """Names of the images in the store."""
    return _names(_instance(ctx).images, ".json")


@matching
def networks(ctx: click.Context) -> list[str]:
    """Names of the networks that have a record."""
    return _names(_instance(ctx).networks, ".json")


@matching
def pools(ctx: click.Context) -> list[str]:
    """Names of the pools, which are control groups."""
    from vsprov.errors import VsprovError
    from vsprov.kernel import cgroup
    from vsprov.store.disk import marks

    try:
        top = cgroup.find().directory("", _instance(ctx).name)
        return sorted(name for name in cgroup.children(top) if marks.role_of(f"{top}/{name}") == "pool")
    except (OSError, VsprovError):
        return []  # not root, or nothing yet


@matching
def volumes(ctx: click.Context) -> list[str]:
    """Names of the volumes."""
    return _names(_instance(ctx).volumes, "")


@matching
def kinds(ctx: click.Context) -> list[str]:
    from vsprov.model.objects import listed

    return [kind.plural for kind in listed()]


@matching
def schemas(ctx: click.Context) -> tuple[str, ...]:
    return packaged.names()


def objects(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Names of objects of the kind that is on the command line."""
    kind = str(ctx.params.get("kind", "")).lower().removesuffix("s")
    known = {"server": servers, "image": images, "network": networks, "volume": volumes, "quota": pools}
    complete = known.get(kind)
    return complete(ctx, param, typed) if complete else []


def keys(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Kinds, and after a dot the keys of manifests."""
    from vsprov.errors import UsageError
    from vsprov.manifest.explain import find
    from vsprov.model.objects import listed

    before, dot, last = typed.rpartition(".")
    if not dot:
        return [kind.word for kind in listed() if kind.word.startswith(typed)]
    kind, _, path = before.partition(".")
    names = {one.word: one.name for one in listed()}
    try:
        found = find(names[kind.lower().removesuffix("s")], path)
    except (UsageError, KeyError):
        return []
    known = found.below.get("properties", {}) if path else {**found.below["properties"]["spec"]["properties"]}
    return [f"{before}.{name}" for name in known if name.startswith(last)]


def described(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Kinds and names of servers for the first word, names of objects of its kind for the others."""
    before = ctx.params.get("words") or ()
    if not before:
        return kinds(ctx, param, typed) + servers(ctx, param, typed)
    ctx.params["kind"] = before[0].partition("/")[0]
    return objects(ctx, param, typed)


def _instance(ctx: click.Context) -> Instance:
    before = ctx.find_root().params
    name, root = (ctx.params.get(option) or before.get(option) for option in ("instance", "root"))
    return instance_of(name, root)


def _names(folder: str, suffix: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []  # not root, or nothing yet
    return sorted(
        name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith(".")
    )
