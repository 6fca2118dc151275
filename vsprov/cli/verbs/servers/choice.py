"""The options that choose servers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from vsprov.cli import complete, options
from vsprov.cli.options import server_name
from vsprov.engine.desired.choice import Choice
from vsprov.errors import UsageError


def server_choice(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose servers; the verb gets them as `choice`, a `Choice`."""

    @click.argument(
        "names", metavar="[NAME...]", nargs=-1, help="Names of servers.", shell_complete=complete.servers
    )
    @options.server_selector_option
    @click.option("--all", "everything", is_flag=True, help="All servers of the instance.")
    @wraps(function)
    def call(names: tuple[str, ...], labels: str | None, everything: bool, **rest: Any) -> None:
        if sum((bool(names), labels is not None, everything)) != 1:
            raise UsageError("specify exactly one of: names of servers, -l, --all")
        matches = None
        if labels is not None:
            from vsprov.engine.desired import selector

            matches = selector.parse(labels)
        function(choice=Choice(tuple(map(server_name, names)), matches, everything), **rest)

    return call
