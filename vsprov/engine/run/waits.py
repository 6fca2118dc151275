"""What a command that waits for conditions of servers remembers from one plan to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

if TYPE_CHECKING:
    from vsprov.plan.observed import ObservedServer

SECONDS_TO_NOTICE = 5.0  # after which a notice says what is waited for
Aim = tuple[str, str]  # a server, and the condition that it is to get into


class Waits(Struct, frozen=True):
    """`since` is when each wait has begun, on the monotonic clock. `over` are those that have ended without
    success. `rolled` are the servers that a rolling update waits for, by name.
    """

    since: dict[Aim, float] = field(default_factory=dict)
    over: set[Aim] = field(default_factory=set)
    rolled: dict[str, Rolled] = field(default_factory=dict)


class Rolled(Struct, frozen=True):
    """A server that was changed, and is put back if it does not become ready: as it was `before` that, None
    if it cannot be put back, and the `record` that it has got.
    """

    before: ObservedServer | None
    record: Mapping[str, Any] | None
