"""The section `hooks` of a server: commands of the host around its start and its stop."""

from __future__ import annotations

from collections.abc import Mapping

from vsprov.model.fields import Section, many, mapping, strings, value
from vsprov.model.values import patterns
from vsprov.model.values.value_kinds import DURATION


class Hook(Section):
    """A command that runs on the host as root."""

    exec: tuple[str, ...] = strings(
        doc="The program and its arguments, looked up in PATH of the host.",
        schema={"items": patterns.TEXT, "minItems": 1},
        required=True,
    )
    timeout: int = value(
        30_000_000,
        doc="Time after which the command and all processes that it has started are killed.",
        kind=DURATION,
    )
    env: Mapping[str, str] = mapping(
        doc="Environment variables, in addition to those that describe the server.",
        schema=patterns.VARIABLES,
    )


_LIST = {"maxItems": 32}


class Hooks(Section):
    """The hooks of a server, by when they run. The commands of each run one after the other."""

    pre_start: tuple[Hook, ...] = many(
        Hook,
        doc="Before the server is created, so that they can prepare what it mounts. If one fails, the server "
        "does not start.",
        schema=_LIST,
    )
    post_start: tuple[Hook, ...] = many(
        Hook,
        doc="After the server's command was started. If one fails, the start has failed, and the server is "
        "stopped again.",
        schema=_LIST,
    )
    pre_stop: tuple[Hook, ...] = many(
        Hook,
        doc="Before the server is stopped by vsprov. If one fails, it is reported; the server is stopped all "
        "the same.",
        schema=_LIST,
    )
    post_stop: tuple[Hook, ...] = many(
        Hook,
        doc="After the server has ended for any reason, and after a failed start. If one fails, it is "
        "reported.",
        schema=_LIST,
    )
