"""`vsprov explain`: the description of a key of a manifest."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from vsprov.cli import complete
from vsprov.cli.kinds import kinds
from vsprov.cli.verb import Settings, verb
from vsprov.errors import UsageError
from vsprov.render.problems import dump
from vsprov.render.screen import Screen, out

if TYPE_CHECKING:
    from vsprov.manifest.explain import KeyInfo

_TYPES = {"object": "map", "array": "list", "string": "text", "integer": "number", "boolean": "true or false"}


@verb(
    """
vsprov explain server
vsprov explain server.init.stopTimeout
vsprov explain server.mounts
vsprov explain quota --recursive
""",
    outputs=("text", "json"),
)
@click.argument(
    "key",
    metavar="KIND[.KEY...]",
    help="A kind, or a key in its documents; `spec` may be omitted.",
    shell_complete=complete.keys,
)
@click.option("--recursive", "-R", is_flag=True, help="List the keys below it at all levels.")
def explain(settings: Settings, key: str, recursive: bool) -> None:
    """Describes a kind or a key of manifests: its type, default, and the cost of changing it for a running
    server, and lists the keys below it. It does not need root. As JSON it prints the schema.
    """
    from vsprov.manifest import explain as keys

    kind, _, path = key.partition(".")
    if not kind or kind.lower() == "all":
        raise UsageError(f"explain {key}: no kind given", hint="vsprov explain server")
    (name,) = kinds("explain", kind)
    found = keys.find(name, path or "spec")
    if settings.output == "json":
        out(dump(found.schema))
    else:
        out("\n".join(_text(found, settings.stdout, recursive)))


def _text(found: KeyInfo, screen: Screen, recursive: bool) -> Iterator[str]:
    yield f"{screen.paint('Kind:', 'bold')} {found.kind}"
    if found.path:
        yield f"{screen.paint('Key:', 'bold')}  {found.path}"
        yield f"{screen.paint('Type:', 'bold')} {_type(found.schema)}"
    for label, value in _facts(found):
        yield f"{screen.paint(f'{label}:', 'bold')} {value}"
    yield ""
    width = min(screen.width, 100)
    yield from textwrap.wrap(found.schema["description"], width, break_on_hyphens=False)
    if any(True for _ in found.children()):
        yield ""
        yield screen.paint("Keys:", "bold")
        yield from _keys(found, screen, recursive, "  ")


def _facts(found: KeyInfo) -> Iterator[tuple[str, str]]:
    if found.path and found.required:
        yield "Required", "yes"
    if "default" in found.schema:
        yield "Default", _code(found.schema["default"])
    if found.cost:
        yield "Cost of a change", found.cost


def _keys(found: KeyInfo, screen: Screen, recursive: bool, indent: str) -> Iterator[str]:
    """The keys below one, each with its type; of a single level also with their descriptions."""
    for one in found.children():
        required = ", required" if one.required else ""
        name = screen.paint(one.path.rpartition(".")[2], "bold")
        yield f"{indent}{name}  <{_type(one.schema)}{required}>"
        if recursive:
            yield from _keys(one, screen, recursive, f"{indent}  ")
        else:
            width = min(screen.width, 100) - len(indent) - 4
            for line in textwrap.wrap(one.schema["description"], width, break_on_hyphens=False):
                yield f"{indent}    {line}"


def _type(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return _code(schema["const"])
    if "enum" in schema:
        return " or ".join(map(_code, schema["enum"]))
    if "type" not in schema:
        return "any"
    types = schema["type"]
    return " or ".join(_TYPES.get(name, name) for name in ([types] if isinstance(types, str) else types))


def _code(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
