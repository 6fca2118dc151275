"""The record of a server, for commands that use its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsprov.errors import FailedError
from vsprov.plan.observed import ObservedServer


def record_of(seen: ObservedServer, doing: str = "") -> Mapping[str, Any]:
    """What was applied to a server. FailedError, with what is being done, if its record, its directory or the
    range of its IDs is not known.
    """
    if seen.applied is None or not seen.directory or seen.id_base is None:
        what = f"Server/{seen.name}: {doing}: " if doing else f"Server/{seen.name}: "
        raise FailedError(f"{what}its record or its directory is lost", hint="apply its manifest")
    return seen.applied
