"""`vsprov get`: servers, images and quotas in their current state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from vsprov.cli import complete, options
from vsprov.cli.verb import Settings, verb
from vsprov.engine.desired import selector
from vsprov.engine.show import documents
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.model.objects import KINDS, LATER_KINDS, listed
from vsprov.model.suggest import closest, not_found
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.render import tables
from vsprov.render.plan import grouped_notes
from vsprov.render.problems import dump
from vsprov.render.screen import Screen, clean, err, out


@verb(
    """
vsprov get                                  # everything
vsprov get servers -o wide
vsprov get server web1 -o json
vsprov get -o yaml > now.yaml               # a manifest; `vsprov plan now.yaml` has nothing to do
""",
    outputs=("text", "wide", "name", "json", "yaml"),
)
@click.argument(
    "kind",
    metavar="[KIND]",
    default="",
    help=f"One of {', '.join(kind.plural for kind in listed())}. [default: all of them]",
    shell_complete=complete.kinds,
)
@click.argument(
    "names", metavar="[NAME...]", nargs=-1, help="Names of objects.", shell_complete=complete.objects
)
@options.server_selector_option
def get(settings: Settings, kind: str, names: tuple[str, ...], labels: str | None) -> None:
    """Shows servers, images and quotas as they are now in the kernel and on disk, not as they were last
    applied.
    """
    form = settings.output
    wanted = _wanted(kind, names)
    match = selector.parse(labels) if labels is not None else None
    if match is not None and "Server" not in wanted:
        raise UsageError(f"get {clean(kind)}: -l selects servers only", hint="vsprov get servers -l LABELS")
    process.require_root("get: reading the state of servers")
    now = documents.look(settings.instance)
    items: dict[str, list[dict[str, Any]]] = {}
    for each, chosen in wanted.items():
        made = []
        for name in _names(each, chosen, documents.names(each, now)):
            # In a manifest, fields that other programs may change keep the applied value.
            ignore = documents.left_to_others(each, name, now) if form == "yaml" else frozenset[str]()
            measured = settings.instance if form == "wide" or (form == "json" and chosen) else None
            made.append(documents.document(each, name, now, ignore, measured=measured))
        items[each] = [
            one
            for one in made
            if match is None or (each == "Server" and match(one["metadata"].get("labels", {})))
        ]
    flat = [one for made in items.values() for one in made]
    match form:
        case "json":
            single = sum(map(len, wanted.values())) == 1
            out(dump(flat[0] if single and flat else {"items": flat}))
        case "yaml":
            from vsprov.manifest.syntax.dump import to_yaml

            out(to_yaml(_as_manifest(one) for one in flat))
        case "name":
            for one in flat:
                out(f"{one['kind']}/{one['metadata']['name']}")
        case _ if flat or not labels:
            _tables(items, settings.stdout, form == "wide")
        case _:
            err(f"No server matches the labels {clean(labels)}.")


def _as_manifest(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without its status."""
    spec = PLANNERS[document["kind"]].readable(document["spec"])
    return {key: value for key, value in document.items() if key != "status"} | {"spec": spec}


def _wanted(kind: str, names: Sequence[str]) -> dict[str, list[str]]:
    """{kind: names to show, empty for all} from the command line; KIND/NAME gives both in one word."""
    if "/" not in kind:
        return {one: list(names) for one in _kinds(kind)}
    found: dict[str, list[str]] = {}
    for word in (kind, *names):
        before, _, name = word.rpartition("/")
        for one in _kinds(before or kind):
            found.setdefault(one, []).append(name)
    return found


def _kinds(word: str) -> tuple[str, ...]:
    """The kinds that a word of the command line stands for. Raises UsageError."""
    if not word or word.lower() == "all":
        return tuple(KINDS)
    name = word.partition("/")[0].lower().removesuffix("s")
    known = {kind.word: kind.name for kind in listed()}
    if name in known:
        return (known[name],)
    if name.capitalize() in LATER_KINDS:
        raise UsageError(f"get {word}: this version of vsprov has no {name}s")
    close = closest(name, known)
    hint = f"did you mean {close}s?" if close else f"vsprov get servers {word} shows a server of that name"
    raise UsageError(f"get {word}: no such kind", hint=hint)


def _names(kind: str, chosen: list[str], known: list[str]) -> list[str]:
    """The chosen names, or all. Raises FailedError for a name that does not exist."""
    for name in chosen:
        if name not in known:
            raise not_found(kind, name, known)
    return chosen or known


def _tables(items: Mapping[str, list[dict[str, Any]]], screen: Screen, wide: bool) -> None:
    order = [kind.name for kind in listed() if kind.name in items]
    parts = []
    for kind in order:
        if items[kind] or len(order) == 1:
            parts.append(tables.text(tables.objects(kind, items[kind], wide=wide), screen))
    notes = {
        f"{kind}/{one['metadata']['name']}": [
            f"{each['path']} is not enforced: {each['reason']}"
            for each in one["status"].get("notEnforced", ())
        ]
        for kind in order
        for one in items[kind]
    }
    if lines := grouped_notes(notes):
        parts.append("\n".join(lines))
    out("\n\n".join(parts) if parts else "No objects found. Create them with: vsprov apply PATH")
