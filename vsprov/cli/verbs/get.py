"""`vsprov get`: objects in their current state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from msgspec import Struct

from vsprov.cli import complete, options
from vsprov.cli.kinds import chosen
from vsprov.cli.verb import Settings, verb
from vsprov.engine.desired import selector
from vsprov.engine.show import documents
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.model.objects import listed
from vsprov.model.suggest import not_found
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.render import columns, tables
from vsprov.render.plan import grouped_notes
from vsprov.render.problems import dump
from vsprov.render.screen import Screen, clean, err, out


def _complete_field(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    return [name for name in columns.SHORT if name.startswith(typed)]


@verb(
    """
vsprov get                                  # everything
vsprov get servers -o wide
vsprov get server web1 -o json
vsprov get servers --sort-by -memory --columns NAME,STATE,MEMORY,status.usage.diskBytes
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
@click.option("--show-labels", is_flag=True, help="Add a column with the labels.")
@click.option(
    "--sort-by",
    "field",
    metavar="FIELD",
    help=f"{', '.join(columns.SHORT)}, or a path in the JSON, such as status.usage.pids. "
    "-FIELD sorts from high to low. [default: name]",
    shell_complete=_complete_field,
)
@click.option(
    "--columns",
    "given",
    metavar="COLUMNS",
    help="Columns to print: titles of -o wide, or paths in the JSON, separated by commas.",
)
def get(
    settings: Settings,
    kind: str,
    names: tuple[str, ...],
    labels: str | None,
    show_labels: bool,
    field: str | None,
    given: str | None,
) -> None:
    """Shows servers, images, quotas, networks and volumes as they are now in the kernel and on disk, not as
    they were last applied. Sizes on disk are measured for -o wide, for volumes, and for --columns and
    --sort-by that name them.
    """
    form = settings.output
    wanted = chosen("get", kind, names)
    match = selector.parse(labels) if labels is not None else None
    if match is not None and "Server" not in wanted:
        raise UsageError(f"get {clean(kind)}: -l selects servers only", hint="vsprov get servers -l LABELS")
    shape = _shape(form, given, show_labels, len(wanted))
    sort = columns.sorting(field) if field else list
    disk = any("disk" in word.lower() for word in (field or "", *shape.columns))
    process.require_root("get: reading the state of servers")
    now = documents.look(settings.instance, ask_keeper="Server" in wanted)
    items: dict[str, list[dict[str, Any]]] = {}
    for each, chosen_names in wanted.items():
        of_volumes = each == "Volume" and len(wanted) == 1
        asked = disk or form == "wide" or of_volumes or (form == "json" and chosen_names)
        made = [
            # In a manifest, fields that other programs may change keep the applied value.
            documents.document(
                each,
                name,
                now,
                documents.left_to_others(each, name, now) if form == "yaml" else frozenset(),
                measured=settings.instance if asked else None,
            )
            for name in _names(each, chosen_names, documents.names(each, now))
        ]
        if match is not None:
            made = [one for one in made if each == "Server" and match(one["metadata"].get("labels", {}))]
        items[each] = sort(made)
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
            _tables(items, settings.stdout, shape)
            shown = {one["metadata"]["name"] for one in items.get("Server", ())}
            settings.note_unwatched({name: now.unwatched[name] for name in shown & now.unwatched.keys()})
        case _:
            err(f"No server matches the labels {clean(labels)}.")


def _as_manifest(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without its status."""
    spec = PLANNERS[document["kind"]].readable(document["spec"])
    return {key: value for key, value in document.items() if key != "status"} | {"spec": spec}


def _names(kind: str, given: list[str], known: list[str]) -> list[str]:
    """The given names, or all. Raises FailedError for a name that does not exist."""
    for name in given:
        if name not in known:
            raise not_found(kind, name, known)
    return given or known


class _Shape(Struct, frozen=True):
    """The form of the tables: all columns, the labels, only some columns."""

    wide: bool
    labels: bool
    columns: Sequence[str]

    def table(self, kind: str, documents: Sequence[Mapping[str, Any]]) -> tables.Table:
        """The table for documents of one kind."""
        if self.columns:
            table = columns.choose(kind, documents, self.columns)
        else:
            table = tables.objects(kind, documents, wide=self.wide)
        return columns.with_labels(table, documents) if self.labels else table


def _shape(form: str, given: str | None, labels: bool, kinds: int) -> _Shape:
    """The form of the tables of so many kinds; UsageError for options that exclude each other."""
    if (given or labels) and form not in ("text", "wide"):
        raise UsageError(f"get -o {form}: --columns and --show-labels are for tables")
    if given and (kinds > 1 or form == "wide"):
        raise UsageError("get --columns: takes a single kind, and not -o wide", hint="vsprov get servers …")
    return _Shape(form == "wide", labels, given.split(",") if given else [])


def _tables(items: Mapping[str, list[dict[str, Any]]], screen: Screen, shape: _Shape) -> None:
    order = [kind.name for kind in listed() if kind.name in items]
    parts = []
    for kind in order:
        if items[kind] or len(order) == 1:
            parts.append(tables.text(shape.table(kind, items[kind]), screen))
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
