"""`vsprov describe`: everything about single objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from vsprov.cli import complete
from vsprov.cli.kinds import chosen
from vsprov.cli.verb import Settings, verb
from vsprov.engine.show import documents
from vsprov.engine.show.documents import SituationWithWeights
from vsprov.errors import FailedError, UsageError
from vsprov.kernel import process
from vsprov.model.objects import listed
from vsprov.model.suggest import closest, not_found
from vsprov.render.problems import dump
from vsprov.render.screen import clean, out


@verb(
    """
vsprov describe web1
vsprov describe network front
vsprov describe server/web1 image/debian-12 -o json
""",
    outputs=("text", "json", "yaml"),
)
@click.argument(
    "words",
    metavar="[KIND] NAME...",
    nargs=-1,
    required=True,
    help="Names of objects. KIND/NAME gives both in one word; the kind can be omitted if only one object has "
    "the name.",
    shell_complete=complete.described,
)
def describe(settings: Settings, words: tuple[str, ...]) -> None:
    """Shows everything about an object: its state, what it uses of its limits, addresses, mounts, what was
    changed since it was applied, its processes, the end of its log; for images the layers and users, for
    pools and networks the servers.

    In JSON and YAML, `details` has what `vsprov get` does not show.
    """
    from vsprov.engine.show.details import describe as of
    from vsprov.render import describe as description

    process.require_root("describe: reading the state of servers")
    now = documents.look(settings.instance, ask_keeper=True)
    objects = list(_objects(words, now))
    found = [of(kind, name, now, settings.instance) for kind, name in objects]
    match settings.output:
        case "json":
            out(dump(found[0] if len(found) == 1 else {"items": found}))
        case "yaml":
            out(_yaml(found))
        case _:
            out("\n\n".join(description.text(one, settings.stdout) for one in found))
            shown = {name for kind, name in objects if kind == "Server"}
            settings.note_unwatched({name: now.unwatched[name] for name in shown & now.unwatched.keys()})


def _yaml(found: Sequence[dict[str, Any]]) -> str:
    from vsprov.manifest.syntax.dump import to_yaml

    return to_yaml(found)


def _objects(words: Sequence[str], now: SituationWithWeights) -> Iterator[tuple[str, str]]:
    """The (kind, name) of each object on the command line. FailedError for one that does not exist."""
    if len(words) == 1 and "/" not in words[0]:
        yield _only(words[0], now)
        return
    for kind, names in chosen("describe", words[0], words[1:]).items():
        known = documents.names(kind, now)
        for name in names:
            if name not in known:
                raise not_found(kind, name, known)
            yield kind, name


def _only(name: str, now: SituationWithWeights) -> tuple[str, str]:
    """The (kind, name) of the only object of a name."""
    kinds = [kind for kind in listed() if name in documents.names(kind.name, now)]
    if len(kinds) == 1:
        return kinds[0].name, name
    if kinds:
        several = " or ".join(f"{kind.word}/{clean(name)}" for kind in kinds)
        raise UsageError(f"describe {clean(name)}: several objects have this name", hint=f"use {several}")
    if name.lower().removesuffix("s") in {kind.word for kind in listed()}:
        raise UsageError(f"describe {clean(name)}: no name given", hint="vsprov get shows all objects")
    close = closest(name, [each for kind in listed() for each in documents.names(kind.name, now)])
    hint = f"did you mean {close}?" if close else "vsprov get shows all objects"
    raise FailedError(f"{name}: not found", hint=hint)
