"""Which names a server can get."""

from __future__ import annotations

import re

from vsprov.errors import FailedError, UsageError
from vsprov.manifest.checks.manifest import RESERVED
from vsprov.model.values.patterns import NAME_PATTERN
from vsprov.plan.observed import Observed


def refuse_name(command: str, new: str) -> None:
    """UsageError if no server can have the name."""
    if not re.fullmatch(NAME_PATTERN, new) or new in RESERVED:
        raise UsageError(
            f"{command}: not a name that a server can have",
            hint="up to 63 of a-z, 0-9 and -, a letter or digit at both ends, and none that the kernel uses",
        )


def refuse_taken(what: str, observed: Observed, new: str) -> None:
    """FailedError if something has the name."""
    for found in taken(observed, new):
        raise FailedError(f"{what}: {found} exists")


def taken(observed: Observed, name: str) -> list[str]:
    """What a server of this name would clash with, such as Server/web1."""
    kinds = (("Server", observed.servers), ("Quota", observed.pools))
    return [f"{kind}/{name}" for kind, known in kinds if name in known]
