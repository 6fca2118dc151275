"""What happens to a server when its init ends: `restart`."""

from __future__ import annotations

from typing import Any, Literal

from vsprov.model.fields import Section, value
from vsprov.model.values.value_kinds import DURATION, LIMIT_COUNT

POLICIES = ("no", "on-failure", "always", "unless-stopped")
POLICY = {  # in the short form
    "pattern": f"^({'|'.join(POLICIES)})$",
    "patternErrorMessage": f"is not a restart policy; write one of {', '.join(POLICIES)}",
}


class Restart(Section):
    """Whether the keeper starts a server again that has ended, and how often."""

    policy: Literal["no", "on-failure", "always", "unless-stopped"] = value(
        "no",
        doc="Whether the server is started again after it has ended by itself. no: only after a reboot from "
        "inside. on-failure: after any end except exit code 0 and a halt from inside. always: after any end "
        "except a halt from inside. unless-stopped: as always, but a server that was stopped by a command is "
        "not started when the host starts. A server that was stopped by vsprov is not started again.",
    )
    attempts: int | str = value(
        5,
        doc="Maximum number of restarts within interval, as StartLimitBurst= of systemd. After that the "
        "server stays down until a command starts it. Waiting for servers that it depends on is no restart.",
        kind=LIMIT_COUNT,
    )
    interval: int = value(
        600_000_000,
        doc="Time within which attempts are counted, up to the present. A server that ran for so long starts "
        "again with delay, and one that always does is never given up.",
        kind=DURATION,
    )
    delay: int = value(
        2_000_000,
        doc="Time between the end of the server and the first restart. Each further restart doubles it.",
        kind=DURATION,
    )
    max_delay: int = value(
        300_000_000,
        doc="Upper limit of the time between an end and a restart, unless delay is longer.",
        kind=DURATION,
    )


def expand_restart(raw: Any) -> Any:
    """`restart: always` is short for `restart: {policy: always}`."""
    return {"policy": raw} if isinstance(raw, str) else raw
