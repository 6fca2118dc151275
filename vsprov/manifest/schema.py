"""The JSON Schemas (draft 2020-12) of a manifest, made from the model.

Keys, types, defaults and required keys are those of its dataclasses, resources those of its knobs; the rest
is in `words`. `python -m vsprov.manifest.schema FOLDER` writes a file for each kind and one for any of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vsprov.manifest import words
from vsprov.manifest.words import Schema
from vsprov.model import objects, sources
from vsprov.model.fields import camel
from vsprov.model.knobs import KNOBS

OPEN = "^x-"  # the keys that every map of the format allows and vsprov ignores
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def document_schema(kind: str) -> Schema:
    """The schema of a document of the kind."""
    metadata = {
        "name": {**words.NAME, "description": "The object's name, unique among its kind."},
        "labels": words.LABELS,
        "annotations": words.ANNOTATIONS,
    }
    properties = {
        "apiVersion": {"const": objects.API_VERSION, "description": f"This format: {objects.API_VERSION}."},
        "kind": {"const": kind, "description": "What the document describes."},
        "metadata": {"description": "What it is called.", **_closed(metadata, required=["name"])},
        "spec": {"description": words.KINDS[kind], **_SPECS[kind]()},
    }
    about = {"title": f"{kind} ({objects.API_VERSION})", "description": words.KINDS[kind]}
    ordered = {key: _ordered(schema) for key, schema in properties.items()}
    return {**about, **_closed(ordered, required=list(properties))}


_FIRST = {"type": 0, "description": 1, "items": 2}


def _ordered(schema: Schema) -> Schema:
    """The schema with its type, description and items first, in every schema below it as well."""
    out = {key: schema[key] for key in sorted(schema, key=lambda key: _FIRST.get(key, 3))}
    for key in ("items", "propertyNames", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = _ordered(out[key])
    if "properties" in out:
        out["properties"] = {key: _ordered(inner) for key, inner in out["properties"].items()}
    return out


def manifest_schema() -> Schema:
    """The schema of a document of any kind, for an editor that takes one schema for a file."""
    which = {"enum": list(objects.KINDS), "description": "What the document describes."}
    return {
        "title": f"A document of vsprov ({objects.API_VERSION})",
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
    schemas = {kind.lower(): document_schema(kind) for kind in objects.KINDS}
    schemas["manifest"] = manifest_schema()
    prefix = f"urn:{objects.API_VERSION.replace('/', ':')}"
    return {
        f"{name}.json": {"$schema": DIALECT, "$id": f"{prefix}:{name}", **schema}
        for name, schema in schemas.items()
    }


def to_text(schema: Schema) -> str:
    """The schema as the text of a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _image() -> Schema:
    env = {"propertyNames": words.INIT["env"]["propertyNames"], "additionalProperties": words.WORD}
    run = _model(
        sources.RunStep, {**words.RUN_STEP, "env": {**words.RUN_STEP["env"], **env}}, needed=("command",)
    )
    steps = {
        "copy": {**words.STEP["copy"], **_model(sources.CopyStep, words.COPY_STEP)},
        "write": {**words.STEP["write"], **_model(sources.WriteStep, words.WRITE_STEP)},
        "run": {**run, **words.STEP["run"]},
    }
    defaults = _model(sources.Defaults, {**words.DEFAULTS, "env": {**words.DEFAULTS["env"], **env}})
    build = {
        **words.BUILD_SOURCE,
        "steps": {
            **words.BUILD_SOURCE["steps"],
            "items": _one_of(_model(sources.Step, steps), steps),
            "maxItems": 500,
        },
        "defaults": {**words.BUILD_SOURCE["defaults"], **defaults},
    }
    oci = _one_of(_model(sources.OciSource, words.OCI_SOURCE), ("ref", "layout", "archive"))
    keys = {
        **words.SOURCE,
        "host": {**words.SOURCE["host"], **_model(sources.HostSource, words.HOST_SOURCE)},
        "tar": {**words.SOURCE["tar"], **_model(sources.TarSource, words.TAR_SOURCE)},
        "oci": {**words.SOURCE["oci"], **oci},
        "bootstrap": {
            **words.SOURCE["bootstrap"],
            **_model(sources.BootstrapSource, words.BOOTSTRAP_SOURCE),
        },
        "build": {**words.SOURCE["build"], **_model(sources.BuildSource, build)},
    }
    about = f"Where the image comes from: exactly one of {', '.join(keys)}."
    limits = {**words.IMAGE["limits"], **_model(sources.ImageLimits, words.LIMITS)}
    source = {"description": about, **_one_of(_model(sources.Source, keys), keys)}
    return _model(objects.Image, {"source": source, "limits": limits})


def _one_of(schema: Schema, keys: Iterable[str]) -> Schema:
    """The schema, where exactly one of the keys is there."""
    return {**schema, "oneOf": [{"required": [key]} for key in keys]}


def _quota() -> Schema:
    schema = _model(objects.Quota, words.QUOTA, optional=("resources",))
    scope = schema["properties"]["scope"]
    return {**schema, "properties": {"scope": scope, **_resources()["properties"]}}


def _server() -> Schema:
    capabilities = _model(objects.CapabilityChange, words.CAPABILITIES)
    security = {
        **words.SECURITY,
        "capabilities": {**words.SECURITY["capabilities"], **capabilities},
    }
    keys = {
        **words.SERVER,
        "resources": {**words.SERVER["resources"], **_resources()},
        "init": {**words.SERVER["init"], **_model(objects.Init, words.INIT)},
        "mounts": {**words.SERVER["mounts"], "items": _model(objects.Mount, words.MOUNT)},
        "security": {**words.SERVER["security"], **_model(objects.Security, security)},
        "dependsOn": {**words.SERVER["dependsOn"], "items": _model(objects.Dependency, words.DEPENDENCY)},
    }
    return _model(objects.Server, keys, optional=("hostname", "resources"))


_SPECS = {"Image": _image, "Quota": _quota, "Server": _server}


def _resources() -> Schema:
    groups: dict[str, Schema] = {}
    for knob in KNOBS:
        group, key = knob.path.split(".", 1)
        groups.setdefault(group, {})[key] = {"description": knob.doc, **_opened(knob.kind.schema)}
    return _closed(
        {group: {"description": words.GROUPS[group], **_closed(keys)} for group, keys in groups.items()}
    )


def _model(
    kind: type, keys: Mapping[str, Schema], *, optional: tuple[str, ...] = (), needed: tuple[str, ...] = ()
) -> Schema:
    """The schema of a dataclass; `keys` adds to what its fields say.

    `optional` keys have no default in the model because they get their value from elsewhere; `needed` ones
    have one with which nothing could run.
    """
    hints = get_type_hints(kind)
    properties: dict[str, Schema] = {}
    required = []
    for field in dataclasses.fields(kind):
        key = camel(field.name)
        properties[key] = {**_annotated(hints[field.name]), **keys[key]}
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if key in needed or (default is dataclasses.MISSING and key not in optional):
            required.append(key)
        elif default == () and "minItems" in properties[key]:
            continue  # the default is what no manifest can spell
        elif default not in (None, dataclasses.MISSING, {}) and "one" not in field.metadata:
            dump = field.metadata.get("dump")
            properties[key]["default"] = dump(default) if dump else [] if default == () else default
    return _closed(properties, required=required)


_TYPES = {str: "string", bool: "boolean", int: "integer"}


def _annotated(hint: Any) -> Schema:
    """What a field's annotation says by itself."""
    if get_origin(hint) is Literal:
        return {"type": "string", "enum": list(get_args(hint))}
    if get_origin(hint) is tuple:
        return {"type": "array"}
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    options = [option for option in get_args(hint) if option is not type(None)]
    return _annotated(options[0]) if len(options) == 1 else {"type": "object"}


def _closed(properties: Mapping[str, Schema], *, required: list[str] | None = None) -> Schema:
    """A map of these keys, of `x-` keys, and of nothing else."""
    out: Schema = {"type": "object", "properties": dict(properties)}
    if required:
        out["required"] = required
    return {**out, "patternProperties": {OPEN: {}}, "additionalProperties": False}


def _opened(schema: Mapping[str, Any]) -> Schema:
    """A knob's schema, with `x-` keys allowed in its maps."""
    out = dict(schema)
    if "properties" in schema:
        out["properties"] = {key: _opened(inner) for key, inner in schema["properties"].items()}
        out["patternProperties"] = {OPEN: {}}
    if "items" in schema:
        out["items"] = _opened(schema["items"])
    return out


def main(folder: str) -> None:
    """Writes the published schemas into a folder, which is made if need be."""
    os.makedirs(folder, exist_ok=True)
    for name, schema in published().items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(to_text(schema))


if __name__ == "__main__":
    main(*sys.argv[1:])
