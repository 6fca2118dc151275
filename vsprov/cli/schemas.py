"""The JSON Schemas that are packaged with vsprov."""

from __future__ import annotations

import os

from vsprov import PACKAGE
from vsprov.errors import FailedError


def names() -> tuple[str, ...]:
    """The schemas there are: of a document of any kind, of each kind, and of a plan."""
    from vsprov.model.objects import KINDS  # the other verbs complete without it

    return ("manifest", *(kind.word for kind in KINDS.values()), "plan")


def packaged(name: str) -> str:
    """The text of a schema, from the installation or from a checkout."""
    for folder in (f"{PACKAGE}/schemas", f"{os.path.dirname(PACKAGE)}/schemas"):
        try:
            with open(f"{folder}/{name}.json", encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            continue
    raise FailedError(f"schema {name}: {name}.json is not installed")
