"""The commands that lead from the tables that there are to those that there should be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from vsprov.plan.network.ruleset.text import Object
from vsprov.plan.network.state import Tables

Commands = list[Mapping[str, Any]]  # of libnftables-json(5); `script.command` is their text

# The kernel needs longer to delete an element the more intervals a set has: 2 to 14 ms if there are 1000 to
# 2000. If elements to delete times elements exceed this, the table is replaced, within a second or two.
_SLOW = 100_000
_OTHER = "other elements of sets"
# What the elements of sets are to people.
_WORDS = {
    ("bridge", "macs"): "interfaces",
    ("bridge", "senders"): "addresses of servers",
    ("inet", "senders"): "addresses of servers",
    ("inet", "open_in"): "firewall openings",
    ("inet", "open_out"): "firewall openings",
    ("inet", "ports"): "published ports",
    ("inet", "ranges"): "published ports",
}


class _Delta(Struct):
    widen: Commands = field(default_factory=list)
    undo: Commands = field(default_factory=list)
    narrow: Commands = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    figures: dict[str, tuple[int, int]] = field(default_factory=dict)  # {what: (added, removed)}


def changes(wanted: Tables, seen: Tables) -> tuple[Commands, Commands, Commands, list[str]]:
    """(commands that only add, commands that undo them, commands that remove, what changes in words).

    Each list of commands is one transaction. Tables whose rules, chains or sets differ are replaced as a
    whole; otherwise only elements are added and deleted.
    """
    delta = _Delta()
    for family in sorted({*wanted, *seen}):
        new, old = wanted.get(family, ()), seen.get(family, ())
        if new == old:
            continue
        if not new:
            delta.narrow.append({"delete": old[0]})
            delta.why.append(f"table {_name(old)} ({family}) is not needed any more")
        elif not old:
            delta.widen += _create(new)
            delta.undo.append({"delete": new[0]})
            delta.why.append(f"table {_name(new)} ({family}) does not exist")
        elif _structure(new) != _structure(old):  # not undone: the rules that there should be are no harm
            delta.widen += [{"delete": old[0]}, *_create(new)]
            delta.why.append(f"rules of table {_name(new)} ({family}) differ")
        else:
            _change_elements(delta, new, old)
            if _deletes_slowly(delta, family, old):
                delta.narrow = [each for each in delta.narrow if _family(each) != family]
                delta.narrow += [{"delete": old[0]}, *_create(new)]
    other = delta.figures.pop(_OTHER, None)
    for word, (more, less) in (delta.figures or ({_OTHER: other} if other else {})).items():
        delta.why.append(f"{word}: {_figures(more, less)}")
    return delta.widen, delta.undo, delta.narrow, delta.why


def _name(objects: tuple[Object, ...]) -> str:
    return str(objects[0]["table"]["name"])


def _create(objects: tuple[Object, ...]) -> Commands:
    return [{"add": each} for each in objects]


def _structure(objects: tuple[Object, ...]) -> list[Object]:
    return [
        {kind: {key: value for key, value in body.items() if key != "elem"}}
        for each in objects
        for kind, body in each.items()
    ]


def _change_elements(delta: _Delta, new: tuple[Object, ...], old: tuple[Object, ...]) -> None:
    for had, each in zip(old, new, strict=True):  # they differ in elements only
        kind, body = next(iter(each.items()))
        if kind in ("set", "map"):
            _change_set(delta, kind, body, had[kind])


def _deletes_slowly(delta: _Delta, family: str, old: tuple[Object, ...]) -> bool:
    """Whether what is removed in the end takes longer than making the table anew."""
    sizes = {
        body["name"]: len(body.get("elem", ()))
        for each in old
        for kind, body in each.items()
        if kind in ("set", "map") and "interval" in body.get("flags", ())
    }
    removed = (each["delete"]["element"] for each in delta.narrow if _family(each) == family)
    return sum(len(each["elem"]) * sizes.get(each["name"], 0) for each in removed) > _SLOW


def _family(command: Mapping[str, Any]) -> str:
    """The family of a command that deletes elements; "" of any other."""
    return str(command.get("delete", {}).get("element", {}).get("family", ""))


def _change_set(delta: _Delta, kind: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
    has, had = _elements(new), _elements(old)
    more = [has[key] for key in has if key not in had]
    less = [had[key] for key in had if key not in has]
    # Here no element can be added while another one has its key, or a part of it.
    exclusive = kind == "map" or "interval" in new.get("flags", ())
    if more and less and exclusive:
        delta.widen += [_command("delete", new, less), _command("add", new, more)]
        delta.undo += [_command("delete", new, more), _command("add", new, less)]
    elif more:
        delta.widen.append(_command("add", new, more))
        delta.undo.append(_command("delete", new, more))
    if less and not (more and exclusive):
        delta.narrow.append(_command("delete", new, less))
    word = _WORDS.get((new["family"], new["name"].rstrip("46")), _OTHER)
    if more or less:
        before = delta.figures.get(word, (0, 0))
        delta.figures[word] = (before[0] + len(more), before[1] + len(less))


def _figures(more: int, less: int) -> str:
    return ", ".join(f"{count} {word}" for count, word in ((more, "added"), (less, "removed")) if count)


def _elements(body: Mapping[str, Any]) -> dict[str, Any]:
    return {json.dumps(each): each for each in body.get("elem", ())}


def _command(verb: str, of: Mapping[str, Any], found: list[Any]) -> Mapping[str, Any]:
    """The elements with the types of their set, which the text of a command depends on."""
    place = {key: of[key] for key in ("family", "table", "name", "type", "map") if key in of}
    return {verb: {"element": {**place, "elem": found}}}
