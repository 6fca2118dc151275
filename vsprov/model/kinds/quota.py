"""The spec of a quota: resources for each of several servers, or for all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vsprov.model.fields import Section, value
from vsprov.model.limits.resources import knobs


class Quota(Section):
    """The spec of a quota."""

    scope: Literal["server", "pool"] = value(
        "server", doc="server: each server that names the quota gets these resources. pool: they share them."
    )
    resources: Mapping[str, Any] = knobs(doc="Resources of each server or of the pool.", inline=True)
