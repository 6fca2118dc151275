"""What the verbs that change servers print when they are done, as text or JSON, and their exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click
from msgspec import Struct, field

from vsprov.cli.verb import Settings
from vsprov.errors import VsprovError
from vsprov.render.problems import dump, error_lines, errors_as_json
from vsprov.render.screen import clean, err, out


class Result(Struct, frozen=True):
    """The result of a verb.

    `done` and `already` are addresses: of servers that were changed, and of those that needed no change.
    `errors` are by address, `exits` {server: how its command ended although it was not meant to}, `unhandled`
    {server: the stop signal for which it has no handler}, `unready` {server: why it is not ready}.
    """

    done: Sequence[str]
    already: Sequence[str] = ()
    errors: Mapping[str, VsprovError] = field(default_factory=dict)
    exits: Mapping[str, str] = field(default_factory=dict)
    unhandled: Mapping[str, str] = field(default_factory=dict)
    unready: Mapping[str, str] = field(default_factory=dict)


class Words(Struct, frozen=True):
    """The words of a verb: "start", "already running" and, unless progress was shown meanwhile, "started".

    `nothing` is said if there are no servers, `others` of some instead of `already`, by address.
    """

    verb: str
    already: str
    done: str = ""
    nothing: str = ""
    others: Mapping[str, str] = field(default_factory=dict)


def conclude(settings: Settings, words: Words, result: Result) -> None:
    """Print the result; raises Exit with code 1 if anything failed.

    The errors are printed here if `words.done` is set. Otherwise they were printed when they happened.
    """
    if settings.output == "json":
        out(
            dump(
                {
                    "done": list(result.done),
                    "already": list(result.already),
                    "errors": errors_as_json(result.errors),
                    "exits": dict(result.exits),
                    "unhandledSignals": dict(result.unhandled),
                    "notReady": dict(result.unready),
                }
            )
        )
    elif not settings.quiet:
        for address in result.done if words.done else ():
            err(f"{clean(address)}: {words.done}")
        for address in result.already:
            err(f"{clean(address)}: {words.others.get(address, words.already)}")
        if not (result.done or result.already or result.errors):
            err(words.nothing or f"Nothing to {words.verb}: no server is selected.")
    for error in result.errors.values() if words.done else ():
        err("\n".join(error_lines(error)))
    if result.exits:
        from vsprov.cli.outcomes import show_exit

        for name, how in result.exits.items():
            show_exit(settings, name, how)
    if result.unready:
        from vsprov.cli.outcomes import show_unready

        for name, why in result.unready.items():
            show_unready(settings, name, why)
    if result.errors or result.exits or result.unready:
        raise click.exceptions.Exit(1)
