"""Packages whose modules register themselves: a new one is a new file."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules


def import_all(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, in the order of their names."""
    for name in sorted(module.name for module in iter_modules(path)):
        import_module(f"{package}.{name}")
