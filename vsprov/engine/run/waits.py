"""What a command that waits for conditions of servers remembers from one plan to the next."""

from __future__ import annotations

from dataclasses import dataclass, field

Aim = tuple[str, str]  # a server, and the condition that it is to get into


@dataclass(frozen=True, slots=True)
class Waits:
    """`since` is when each wait has begun, on the monotonic clock. `over` are those that have ended without
    success.
    """

    since: dict[Aim, float] = field(default_factory=dict)
    over: set[Aim] = field(default_factory=set)
