"""What a server runs: `init`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vsprov.model.fields import Section, mapping, strings, value
from vsprov.model.values import patterns
from vsprov.model.values.names import parse_signal, parse_user
from vsprov.model.values.value_kinds import DURATION


class Init(Section):
    """What runs as PID 1: the command itself or, with `reaper`, a small init that runs it.

    Keys that are not set default to those of the image, see `defaults.init_of`.
    """

    command: tuple[str, ...] = strings(
        doc="The program and its arguments, looked up in PATH inside the server. Defaults to the image's "
        "entrypoint and command, or to the image's init if style names one.",
        schema={"items": patterns.TEXT, "minItems": 1},
    )
    args: tuple[str, ...] = strings(
        doc="Arguments appended to command, or to the image's entrypoint if command is not set.",
        schema={"items": patterns.TEXT},
    )
    style: Literal["exec", "systemd", "sysv", "openrc", "runit", "s6"] = value(
        "exec",
        doc="What PID 1 is. exec: the command. The others: the init of the image, which boots the server "
        "like a machine; sysv is also that of busybox.",
    )
    env: Mapping[str, str] = mapping(
        doc="Environment variables for the command, in addition to those of the image.",
        schema=patterns.VARIABLES,
    )
    working_dir: str | None = value(
        None,
        doc="Working directory of the command, created if absent. Defaults to the image's, or /.",
        schema=patterns.ABSOLUTE,
    )
    user: str | None = value(
        None,
        doc="User that runs the command: UID, UID:GID, or names from the image's passwd and group files. "
        "Defaults to the image's user, or root.",
        schema=patterns.NAME_OR_NUMBER,
        parse=parse_user,
    )
    reaper: bool = value(
        False,
        doc="Run a small init as PID 1 that reaps orphaned processes and forwards signals to the command.",
    )
    oneshot: bool = value(
        False,
        doc="The command is meant to end. Once it has ended with exit code 0, the server is as it should be; "
        "it runs again when a change requires a restart.",
        cost="live",
        kept=True,
    )
    stop_signal: str | None = value(
        None,
        doc="Signal that asks the command to stop: TERM, INT, RTMIN+3, … Defaults to the image's, or TERM; "
        "for systemd to RTMIN+3, for sysv, openrc and runit to INT, for s6 to TERM.",
        schema=patterns.NAME_OR_NUMBER,
        parse=parse_signal,
        cost="live",
    )
    stop_timeout: int = value(
        10_000_000,
        doc="Time to wait for the server to stop before it is killed. Defaults to 10s, or to 90s if style is "
        "not exec.",
        kind=DURATION,
        cost="live",
    )
