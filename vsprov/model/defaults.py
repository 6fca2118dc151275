"""Defaults that an image provides for its servers.

Stored with the image as JSON: {"entrypoint": […], "command": […], "env": {…}, "user", "workingDir",
"stopSignal"}, without keys that are not set. The keys are those of an OCI image configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from vsprov.model.kinds.sections.init import Init
from vsprov.model.sources import Defaults
from vsprov.model.values.names import parse_signal
from vsprov.model.values.styles import COMMANDS, STOP_SIGNALS, is_system


def init_of(init: Init, config: Mapping[str, Any]) -> Init:
    """The init of a server that uses an image: what it sets itself, then the image's defaults, then vsprov's.

    `command` replaces the entrypoint and the command of the image; `args` alone replaces its command only.
    """
    if is_system(init.style):
        return _of_system(init, config)
    own = init.command or tuple(config.get("entrypoint", ()))
    args = init.args or (() if init.command else tuple(config.get("command", ())))
    return replace(
        init,
        command=(*own, *args),
        args=(),
        env={**config.get("env", {}), **init.env},
        working_dir=init.working_dir or config.get("workingDir") or "/",
        user=init.user or config.get("user") or "0:0",
        stop_signal=init.stop_signal or parse_signal(config.get("stopSignal") or "TERM"),
    )


def _of_system(init: Init, config: Mapping[str, Any]) -> Init:
    """As `init_of`, for a server that boots the init of its image; what the image runs by itself does not
    apply.
    """
    return replace(
        init,
        command=(*(init.command or COMMANDS[init.style]), *init.args),
        args=(),
        env={**config.get("env", {}), **init.env},
        working_dir=init.working_dir or "/",
        user=init.user or "0:0",
        stop_signal=init.stop_signal or STOP_SIGNALS[init.style],
    )


def lacks_command(image: str) -> str:
    """The error for a server of this image for which `init_of` returns no command."""
    return f"image {image} has no default command; set init.command"


def with_image_defaults(config: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    """The configuration of an image built from one with `config`."""
    out = dict(config)
    if defaults.command:
        out.pop("entrypoint", None)
        out["command"] = list(defaults.command)
    if defaults.env:
        out["env"] = {**config.get("env", {}), **defaults.env}
    own = {"workingDir": defaults.working_dir, "user": defaults.user, "stopSignal": defaults.stop_signal}
    return {**out, **{key: value for key, value in own.items() if value is not None}}
