"""Completion of names on the command line; what cannot be read completes to nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import click

from vsprov.cli import schemas as packaged
from vsprov.cli.verb import instance_of
from vsprov.store.instance import Instance

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def matching(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    """Completion with those of the names that begin with what was typed."""
    return lambda ctx, param, typed: [name for name in names(ctx) if name.startswith(typed)]


@matching
def servers(ctx: click.Context) -> list[str]:
    """Names of servers that have a directory."""
    return _names(_instance(ctx).servers, "")


@matching
def images(ctx: click.Context) -> list[str]:
    """Names of the images in the store."""
    return _names(_instance(ctx).images, ".json")


@matching
def networks(ctx: click.Context) -> list[str]:
    """Names of the networks that have a record."""
    return _names(_instance(ctx).networks, ".json")


@matching
def kinds(ctx: click.Context) -> list[str]:
    from vsprov.model.objects import listed

    return [kind.plural for kind in listed()]


@matching
def schemas(ctx: click.Context) -> tuple[str, ...]:
    return packaged.names()


def objects(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Names of servers, images or networks, whichever kind is on the command line; none of other kinds."""
    kind = str(ctx.params.get("kind", "")).lower().removesuffix("s")
    complete = {"server": servers, "image": images, "network": networks}.get(kind)
    return complete(ctx, param, typed) if complete else []


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
