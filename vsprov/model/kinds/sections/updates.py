"""How a change that restarts several servers is carried out: `updateStrategy`."""

from __future__ import annotations

import re
from typing import Any

from vsprov.model.fields import Section, value
from vsprov.model.values import units
from vsprov.model.values.units import UnitError

PERCENTAGE = "^([1-9][0-9]?|100)%$"


def parse_most(raw: Any) -> int | str:
    """A number of servers, or a percentage of them. Raises UnitError."""
    if isinstance(raw, int) and not isinstance(raw, bool) and raw >= 1:
        return raw
    if isinstance(raw, str) and re.fullmatch(PERCENTAGE[1:-1], raw, re.ASCII):
        return raw
    raise UnitError(f"{units.short(raw, repr)} is not a number of servers", "write 1 or 25%")


class UpdateStrategy(Section):
    """Rolling updates of the servers that have equal labels and this section."""

    max_unavailable: int | str = value(
        1,
        doc="How many of these servers are restarted at a time: a number, or a percentage of them.",
        schema={
            "type": ["integer", "string"],
            "minimum": 1,
            "pattern": PERCENTAGE,
            "patternErrorMessage": "is not a percentage; write 25%",
        },
        parse=parse_most,
    )

    def most(self, servers: int) -> int:
        """How many of so many servers may be unavailable; at least one."""
        if isinstance(self.max_unavailable, int):
            return self.max_unavailable
        return max(1, servers * int(self.max_unavailable[:-1]) // 100)
