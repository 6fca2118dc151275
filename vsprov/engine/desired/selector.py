"""Label selectors in the syntax of kubectl: `-l tier=web,env!=dev,zone in (a,b),ready,!old`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from vsprov.errors import UsageError
from vsprov.model.kinds.server import Server
from vsprov.model.objects import Object
from vsprov.plan.kinds.planner import PLANNERS

Labels = Mapping[str, str]
_KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?"
_TERM = re.compile(
    rf"(?P<not>!?)(?P<key>{_KEY})(\s*(?P<op>==|=|!=)\s*(?P<value>{_VALUE})|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?",
    re.ASCII,
)


def parse(text: str) -> Callable[[Labels], bool]:
    """A function that tests labels; a missing key differs from every value. Raises UsageError."""
    terms = [_term(part) for part in re.split(r",(?![^(]*\))", text)]
    return lambda labels: all(term(labels) for term in terms)


def _term(text: str) -> Callable[[Labels], bool]:
    match = _TERM.fullmatch(text.strip())
    if match is None or (match["not"] and (match["op"] or match["set"])):
        raise UsageError(
            f"-l {text.strip()!r}: not a selector",
            hint="use key=value, key!=value, key in (a,b), key or !key",
        )
    key, value = match["key"], match["value"]
    if match["op"] == "!=":
        return lambda labels: labels.get(key) != value
    if match["op"]:
        return lambda labels: labels.get(key) == value
    if match["set"]:
        values = {word.strip() for word in match["values"].split(",")}
        wanted = match["set"] == "in"
        return lambda labels: (labels.get(key) in values) == wanted
    present = not match["not"]
    return lambda labels: (key in labels) == present


def select(objects: Sequence[Object], text: str | None) -> tuple[Object, ...]:
    """The servers with matching labels, with all objects that they need; without a selector, all objects."""
    if text is None:
        return tuple(objects)
    selected = parse(text)
    servers = [one for one in objects if isinstance(one.spec, Server) and selected(one.labels)]
    if not servers:
        raise UsageError(f"-l {text}: no server in the manifest matches")
    needs = {one.address: PLANNERS[one.kind].needs(one) for one in objects}
    chosen: set[str] = set()
    more = {one.address for one in servers}
    while more:
        chosen |= more
        more = {needed for address in more for needed in needs.get(address, ())} - chosen
    return tuple(one for one in objects if one.address in chosen)
