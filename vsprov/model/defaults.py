"""What an image says its servers do where they do not say it themselves.

Kept with the image as JSON, {"entrypoint": […], "command": […], "env": {…}, "user", "workingDir",
"stopSignal"}, whatever it lacks left out; the words are those of an OCI image's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vsprov.model.names import parse_signal
from vsprov.model.objects import Init
from vsprov.model.sources import Defaults


def init_of(init: Init, config: Mapping[str, Any]) -> Init:
    """The init of a server on an image: its own words, then the image's, then what holds for every server.

    A command of the server's own replaces entrypoint and command of the image; `args` alone replace the
    image's command and keep its entrypoint.
    """
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


def lacks_command(image: str) -> str:
    """What is wrong where `init_of` gives a server of this image no command."""
    return f"image {image} brings no command, so the server has to name one"


def with_image_defaults(config: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    """The configuration of an image built on one with `config`."""
    out = dict(config)
    if defaults.command:
        out.pop("entrypoint", None)
        out["command"] = list(defaults.command)
    if defaults.env:
        out["env"] = {**config.get("env", {}), **defaults.env}
    own = {"workingDir": defaults.working_dir, "user": defaults.user, "stopSignal": defaults.stop_signal}
    return {**out, **{key: value for key, value in own.items() if value is not None}}
