"""The JSON Schemas that are packaged with vsprov."""

from __future__ import annotations

import os

from vsprov.errors import FailedError

NAMES = ("manifest", "image", "quota", "server", "plan")


def packaged(name: str) -> str:
    """The text of a schema, as it was installed or as it lies in a checkout."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (f"{package}/schemas", f"{os.path.dirname(package)}/schemas"):
        try:
            with open(f"{folder}/{name}.json", encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            continue
    raise FailedError(f"schema {name}: {name}.json is not installed")
