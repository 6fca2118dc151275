"""The JSON Schemas (draft 2020-12) of manifests, generated from the fields and knobs of the model.

`python -m vsprov.manifest.schema DIRECTORY` writes one file for each kind and one for all kinds.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT

from vsprov.model import objects
from vsprov.model.fields import Key, keys
from vsprov.model.limits.knobs import GROUPS, KNOBS
from vsprov.model.objects import ObjectKind
from vsprov.model.values.patterns import Schema

OPEN = "^x-"  # keys that are allowed in every map and ignored
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def document_schema(kind: str) -> Schema:
    """The schema of a document of this kind."""
    return _document_schema(objects.KINDS[kind])


@cache
def _document_schema(kind: ObjectKind) -> Schema:
    hints = get_type_hints(objects.Object)
    about = keys(objects.Object)
    names = {"name": "name", "labels": "labels", "annotations": "annotations"}
    if kind.name in ("Server", "Volume"):
        names["renamedFrom"] = "renamed_from"
    metadata = {name: _property(about[name], hints[field]) for name, field in names.items()}
    properties = {
        "apiVersion": {
            "description": f"Version of the format, {objects.API_VERSION}.",
            "const": objects.API_VERSION,
        },
        "kind": {"description": about["kind"].doc, "const": kind.name},
        "metadata": _described("Name, labels and annotations.", _closed(metadata, required=["name"])),
        "spec": _described(kind.doc, model_schema(kind.spec)),
    }
    return {
        "title": f"{kind.name} ({objects.API_VERSION})",
        "description": kind.doc,
        **_closed(properties, required=list(properties)),
    }


def manifest_schema() -> Schema:
    """The schema of a document of any kind, for editors that use one schema per file."""
    which = {"enum": list(objects.KINDS), "description": keys(objects.Object)["kind"].doc}
    return {
        "title": f"vsprov document ({objects.API_VERSION})",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {"kind": which},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/{kind}"},
            }
            for kind in objects.KINDS
        ],
        "$defs": {kind: document_schema(kind) for kind in objects.KINDS},
    }


def published() -> dict[str, Schema]:
    """{file name: schema} as published in `schemas/`."""
    schemas = {kind.word: document_schema(kind.name) for kind in objects.KINDS.values()}
    schemas["manifest"] = manifest_schema()
    prefix = f"urn:{objects.API_VERSION.replace('/', ':')}"
    return {
        f"{name}.json": {"$schema": DIALECT, "$id": f"{prefix}:{name}", **schema}
        for name, schema in schemas.items()
    }


def to_text(schema: Schema) -> str:
    """The schema as the text of a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def model_schema(kind: type) -> Schema:
    """The schema of a section of the model: a map with its keys and no others."""
    hints = get_type_hints(kind)
    properties: dict[str, Schema] = {}
    for name, key in keys(kind).items():
        if key.inline:
            properties.update(_resources()["properties"])
        else:
            properties[name] = _property(key, hints[key.field])
    schema = _closed(properties, required=[name for name, key in keys(kind).items() if key.required])
    choices = [{"required": [name]} for name, key in keys(kind).items() if key.choice]
    return {**schema, "oneOf": choices} if choices else schema


def _property(key: Key, hint: Any) -> Schema:
    """The schema of a key's value; `hint` is the annotation of its field."""
    out = _described(key.doc, _annotated(hint))
    if key.one:
        out.update(model_schema(key.one))
    elif key.many:
        out["items"] = {**model_schema(key.many), **key.schema.get("items", {})}
    elif key.read:
        out.update(_resources())
    out.update({word: schema for word, schema in key.schema.items() if word != "items" or not key.many})
    if key.default == () and "minItems" in out:
        return out  # a manifest cannot set the default
    if key.default not in (None, NODEFAULT, {}) and not key.one:
        out["default"] = _default(key)
    return out


def _default(key: Key) -> Any:
    """The default of a key as people write it: 64Gi."""
    if key.kind and key.kind.format is not str and "string" in key.kind.schema["type"]:
        return key.kind.format(key.default)
    return key.dump(key.default) if key.dump else list(key.default) if key.many else key.default


def _resources() -> Schema:
    groups: dict[str, Schema] = {}
    for knob in KNOBS:
        group, key = knob.path.split(".", 1)
        groups.setdefault(group, {})[key] = _described(knob.doc, _opened(knob.kind.schema))
    return _closed({group: _described(GROUPS[group], _closed(inside)) for group, inside in groups.items()})


_TYPES = {str: "string", bool: "boolean", int: "integer"}


def _annotated(hint: Any) -> Schema:
    """The schema that follows from the annotation of a field."""
    if get_origin(hint) is Literal:
        return {"type": "string", "enum": list(get_args(hint))}
    if get_origin(hint) is tuple:
        return {"type": "array"}
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    options = [option for option in get_args(hint) if option is not type(None)]
    return _annotated(options[0]) if len(options) == 1 else {"type": "object"}


def _closed(properties: Mapping[str, Schema], *, required: list[str] | None = None) -> Schema:
    """A map with these keys, `x-` keys and no others."""
    out: Schema = {"type": "object", "properties": dict(properties)}
    if required:
        out["required"] = required
    return {**out, "patternProperties": {OPEN: {}}, "additionalProperties": False}


def _described(doc: str, schema: Schema) -> Schema:
    return {"type": schema["type"], "description": doc, **schema}


def _opened(schema: Mapping[str, Any]) -> Schema:
    """The schema of a knob with `x-` keys allowed in its maps."""
    out = dict(schema)
    if "properties" in schema:
        out["properties"] = {key: _opened(inner) for key, inner in schema["properties"].items()}
        out["patternProperties"] = {OPEN: {}}
    if "items" in schema:
        out["items"] = _opened(schema["items"])
    return out


def main(directory: str) -> None:
    """Write the published schemas to a directory, which is created if needed."""
    os.makedirs(directory, exist_ok=True)
    for name, schema in published().items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(to_text(schema))


if __name__ == "__main__":
    main(*sys.argv[1:])
