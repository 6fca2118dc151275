"""Checks of single volumes. Each is a function in `VOLUME_CHECKS` that yields the problems it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vsprov.errors import Problem
from vsprov.manifest.checks.limits import LEAST_DISK
from vsprov.manifest.checks.paths import KERNEL_DIRECTORIES, is_below, wrong_path
from vsprov.manifest.problems import problem_at
from vsprov.manifest.resolve import Item
from vsprov.model.kinds.volume import Volume
from vsprov.model.values.units import MAX, format_bytes


def source_path(item: Item, volume: Volume) -> Iterator[Problem]:
    """Directories of images that are not normalized, or that images do not have."""
    image = volume.source.image if volume.source else None
    if image is None:
        return
    wrong = wrong_path(image.path, root="")
    if inside := next((each for each in KERNEL_DIRECTORIES if is_below(image.path, each)), None):
        wrong = f"each server mounts its own {inside}; images have none"
    if wrong:
        yield item.problem(("spec", "source", "image", "path"), wrong)


def limits(item: Item, volume: Volume) -> Iterator[Problem]:
    """Limits that are too small for a file system, or a backend without one."""
    if volume.size not in (None, MAX) and volume.size < LEAST_DISK:
        least = format_bytes(LEAST_DISK)
        message = f"{format_bytes(volume.size)} is less than the minimum of {least}"
        yield item.problem(("spec", "size"), message, "write max for no limit")
    if volume.backend and not volume.limits():
        at = ("spec", "backend")
        message = "has no effect without a limit"
        yield problem_at(item.document, at, message, "set size too", warning=True)


VOLUME_CHECKS: tuple[Callable[[Item, Volume], Iterator[Problem]], ...] = (source_path, limits)
