"""Completion of names on the command line; silent about whatever cannot be read."""

from __future__ import annotations

import os
from typing import Any

from vsprov.cli.options import settings
from vsprov.cli.schemas import NAMES

KINDS = ("servers", "images", "quotas")


def servers(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    """Names of servers that have a directory."""
    return _names(_instance(ctx).servers, "")


def images(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    """Names of the images in the store."""
    return _names(_instance(ctx).images, ".json")


def objects(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    """Names of what the kind on the command line stands for."""
    if str(ctx.params.get("kind", "")).startswith("image"):
        return images(ctx, args, incomplete)
    return servers(ctx, args, incomplete)


def kinds(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return list(KINDS)


def schemas(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return list(NAMES)


def _instance(ctx: Any) -> Any:
    given = {
        **(ctx.find_root().params if ctx.parent else {}),
        **{key: value for key, value in ctx.params.items() if value},
    }
    return settings(instance=given.get("instance"), root=given.get("root")).instance


def _names(folder: str, suffix: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []  # not root, or nothing yet
    return sorted(
        name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith(".")
    )
