"""Verbs that only read manifests: validate, render, schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from vsprov import __version__
from vsprov.cli import complete
from vsprov.cli.options import ManifestVerb, Settings, inputs_of, settings_of, verb
from vsprov.cli.schemas import NAMES, packaged
from vsprov.engine.desired.inputs import read
from vsprov.errors import ManifestError, Problem, UsageError
from vsprov.manifest import load as manifests
from vsprov.manifest.load import Manifest
from vsprov.render import problems
from vsprov.render.screen import clean, err, out


def warn(manifest: Manifest, settings: Settings) -> None:
    """The manifest's warnings, on standard error."""
    if not settings.quiet:
        for line in problems.lines(manifest.warnings):
            err(line)


@verb(
    """
vsprov validate servers/
vsprov validate -R . -o sarif > vsprov.sarif
kustomize build | vsprov validate -
""",
    ManifestVerb,
)
def validate(ctx: typer.Context) -> None:
    """Reads the manifests and says everything that is wrong with them, each with file, line and column.
    Nothing of this host is looked at, so it can run anywhere, as in a pull request's checks: an image that
    the manifests do not describe is a warning, for it may be in the store where they are applied.

    Outputs (-o): text, json, sarif (code scanning), junit. Exit code 65 when there is an error.
    """
    settings, given = settings_of(ctx), inputs_of(ctx)
    form = settings.choose("text", "json", "sarif", "junit")
    manifest = Manifest()
    found: Sequence[Problem] = ()
    try:
        manifest = read(given)
        found = manifest.warnings
    except ManifestError as error:
        found = error.problems
    match form:
        case "json":
            out(problems.dump(problems.to_json(found)))
        case "sarif":
            out(problems.dump(problems.to_sarif(found, __version__)))
        case "junit":
            out(problems.to_junit(found, manifest.files))
        case _:
            for line in problems.lines(found):
                err(line)
            if not settings.quiet:
                told = problems.summary(found, problems.count_kinds(one.address for one in manifest.objects))
                (err if any(problem.severity == "error" for problem in found) else out)(told)
    if any(problem.severity == "error" for problem in found):
        raise typer.Exit(ManifestError.exit_code)


@verb(
    """
vsprov render servers/
vsprov render app.yaml.j2 --values prod.yaml --set tag=1.2
vsprov render servers/ --explain
""",
    ManifestVerb,
)
def render(
    ctx: typer.Context,
    explain: Annotated[
        bool, typer.Option("--explain", help="One line per value: what it is, and where it comes from.")
    ] = False,
) -> None:
    """Prints the documents after templates, with every default filled in and quotas merged into the servers
    that name them.

    Outputs (-o): yaml, json, text (with --explain).
    """
    settings, given = settings_of(ctx), inputs_of(ctx)
    form = settings.choose("yaml", "json", "text")
    manifest = read(given)
    warn(manifest, settings)
    if explain:
        rows = manifests.explain(manifest)
        if form == "json":
            keys = ("address", "path", "value", "origin")
            out(problems.dump([dict(zip(keys, row, strict=True)) for row in rows]))
            return
        for address, path, value, origin in rows:
            out(f"{clean(address)}: {clean(path)} = {clean(value)}  # {clean(origin)}")
        return
    documents = manifests.render(manifest)
    if form == "json":
        out(problems.dump({"items": documents}))
    else:
        from vsprov.manifest.dump import to_yaml

        out(to_yaml(documents))


@verb(
    """
vsprov schema > vsprov.schema.json
vsprov schema server
""",
)
def schema(
    ctx: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="manifest (any document), image, quota, server, or plan.",
            autocompletion=complete.schemas,
        ),
    ] = "manifest",
) -> None:
    """Prints a JSON Schema (draft 2020-12). An editor with a YAML language server completes and checks
    manifests by it, when a file begins with the line "# yaml-language-server:
    $schema=vsprov.schema.json".

    Outputs (-o): json.
    """
    name = kind.lower().removesuffix("s")
    if name not in NAMES:
        raise UsageError(f"schema {kind}: no such schema", hint=f"choose one of {', '.join(NAMES)}")
    out(packaged(name))
