"""Kinds and names of objects on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from vsprov.errors import UsageError
from vsprov.model.objects import KINDS, listed
from vsprov.model.suggest import closest
from vsprov.render.screen import clean


def chosen(verb: str, kind: str, names: Sequence[str]) -> dict[str, list[str]]:
    """{kind: names, none for all} of the words of a command line, in which KIND/NAME gives both in one word.

    Raises UsageError for an unknown kind.
    """
    if "/" not in kind:
        return {one: list(names) for one in kinds(verb, kind)}
    found: dict[str, list[str]] = {}
    for word in (kind, *names):
        before, _, name = word.rpartition("/")
        for one in kinds(verb, before or kind):
            found.setdefault(one, []).append(name)
    return found


def kinds(verb: str, word: str) -> tuple[str, ...]:
    """The kinds that a word stands for: all of them for none, or for "all". Raises UsageError."""
    if not word or word.lower() == "all":
        return tuple(KINDS)
    name = word.partition("/")[0].lower().removesuffix("s")
    known = {kind.word: kind.name for kind in listed()}
    if name in known:
        return (known[name],)
    shown = clean(word)
    close = closest(name, known)
    if close:
        hint = f"did you mean {close}s?"
    elif verb == "explain":
        hint = f"choose from {', '.join(known)}"
    else:
        hint = f"for a server of that name: vsprov {verb} server {shown}"
    raise UsageError(f"{verb} {shown}: no such kind", hint=hint)
