"""The manifest's reference for people, made from the schemas and the knobs.

`python -m vsprov.manifest.reference FILE` writes it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from vsprov.manifest import key_docs
from vsprov.manifest.schema import document_schema
from vsprov.model import objects
from vsprov.model.cost import cost_of
from vsprov.model.encodings import Side
from vsprov.model.knobs import KNOBS, Knob

Row = tuple[str, str, str, str]

_INTRO = f"""# Manifest reference

<!-- Made by `python -m vsprov.manifest.reference`; changes made here are lost. -->

A manifest is one or more YAML documents, each with four keys: `apiVersion: {objects.API_VERSION}`, `kind`,
`metadata` and `spec`. Unknown keys are errors; keys that begin with `x-` are allowed in every map, and
ignored. Scalars are those of YAML 1.2: `no`, `on` and `22:22` are text.

A key that is absent has its default. For a resource that is the kernel's own, and vsprov owns it too: a value
that was changed by hand is put back by the next `apply`, unless the annotation `{objects.IGNORE}` names the
knob.

| quantity | written | refused |
|---|---|---|
| bytes | `512Mi`, `2Gi`, `1048576`; `M` and `G` count in thousands, with a warning | `512MB`, `128m`, `-1` |
| CPUs | `1500m`, `1.5` | `150%` |
| durations | `1m30s`, `250ms` | `90` |
| no limit | `max` | `-1`, `unlimited` |

## Every document

"""
_RESOURCES = """## Resources

The keys of a Quota's `spec` and of a Server's `spec.resources`, with the files that carry them under cgroup
v1 and v2. They change without a restart. A dash: this version of cgroups cannot do it.

| key | value | cgroup v1 | cgroup v2 | what it does |
|---|---|---|---|---|
"""
_RLIMITS = """### Limits of each process

One that is absent is that of the host's own init, and a server may lower it as it likes. To raise a hard
limit of a running server takes `CAP_SYS_RESOURCE`; where vsprov is without it, that change costs a restart.

| key | value | what it limits |
|---|---|---|
"""


def to_markdown() -> str:
    """The whole reference."""
    metadata = document_schema("Server")["properties"]["metadata"]
    out = [_INTRO, _table(_rows(metadata, "metadata."))]
    for kind in objects.KINDS:
        spec = document_schema(kind)["properties"]["spec"]
        hidden = ("resources",) if kind == "Server" else tuple(key_docs.GROUPS) if kind == "Quota" else ()
        out.append(f"\n## {kind}\n\n{key_docs.KINDS[kind]} {_NOTES[kind]}\n\n")
        out.append(_table(_rows(spec, "", hidden), with_costs=kind == "Server"))
    out.append("\n" + _RESOURCES)
    out += [_knob(knob) for knob in KNOBS if not knob.rlimit]
    out.append("\n" + _RLIMITS)
    out += [f"| `{knob.path}` | {knob.kind.name} | {_cell(knob.doc)} |\n" for knob in KNOBS if knob.rlimit]
    return "".join(out)


_NOTES = {
    "Image": "The keys of its `spec`:",
    "Quota": "The keys of its `spec`, besides the [resources](#resources):",
    "Server": "The keys of its `spec`, and what a change of each costs a server that runs:",
}


def _rows(schema: dict[str, Any], prefix: str, hidden: tuple[str, ...] = ()) -> Iterator[Row]:
    """(key, type, default, description) of each key of a map, and of the maps below it."""
    needed = schema.get("required", ())
    for key, inner in schema["properties"].items():
        path = f"{prefix}{key}"
        default = "required" if key in needed else _code(inner["default"]) if "default" in inner else ""
        yield path, _type(inner), default, inner["description"]
        if key in hidden:
            continue
        if "properties" in inner:
            yield from _rows(inner, f"{path}.")
        elif "properties" in inner.get("items", {}):
            yield from _rows(inner["items"], f"{path}[].")


def _table(rows: Iterator[Row], *, with_costs: bool = False) -> str:
    titles = ["key", "type", "default", *(["a change"] if with_costs else []), "what it is"]
    out = [f"| {' | '.join(titles)} |\n", "|---" * len(titles) + "|\n"]
    for path, kind, default, about in rows:
        cost = [cost_of(objects.Server, path.replace("[]", ""))] if with_costs else []
        cells = [f"`{path}`", kind, default, *cost]
        out.append(f"| {' | '.join([*cells, _cell(about)])} |\n")
    return "".join(out)


_TYPES = {
    "object": "map", "array": "list", "string": "text", "integer": "number", "boolean": "true or false",
}  # fmt: skip


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in schema["enum"])
    types = schema["type"]
    return " or ".join(_TYPES[name] for name in ([types] if isinstance(types, str) else types))


def _knob(knob: Knob) -> str:
    files = ["by weight"] * 2 if knob.admission else [_files(side) for side in (knob.v1, knob.v2)]
    return f"| `{knob.path}` | {knob.kind.name} | {files[0]} | {files[1]} | {_cell(knob.doc)} |\n"


def _files(side: Side | None) -> str:
    return ", ".join(f"`{file}`" for file in side.files) if side else "–"


def _code(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(path: str) -> None:
    """Writes the reference into a file; its folder is made if need be."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(to_markdown())


if __name__ == "__main__":
    main(*sys.argv[1:])
