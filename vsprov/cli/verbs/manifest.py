"""Verbs that only read manifests: validate, render, schema."""

from __future__ import annotations

from collections.abc import Sequence

import click

from vsprov import __version__
from vsprov.cli import complete, options, schemas
from vsprov.cli.schemas import packaged
from vsprov.cli.verb import Settings, verb
from vsprov.engine.desired.inputs import Inputs, read
from vsprov.errors import ManifestError, Problem, UsageError
from vsprov.manifest import load as manifests
from vsprov.manifest.load import Manifest
from vsprov.model.objects import KINDS
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.render import problems
from vsprov.render.screen import clean, err, out


@verb(
    """
vsprov validate servers/
vsprov validate -R . -o sarif > vsprov.sarif
kustomize build | vsprov validate -
""",
    outputs=("text", "json", "sarif", "junit"),
)
@options.manifest_inputs
def validate(settings: Settings, inputs: Inputs) -> None:
    """Reports every error in the manifests with file, line and column. The host is not examined, so it can
    run anywhere, such as in the checks of a pull request. An image that the manifests do not describe
    is a warning, because the store of the host may have it.

    SARIF is for code scanning, JUnit for test reports. Exit code 65 if there is an error.
    """
    options.require_paths("validate", inputs)
    manifest = Manifest()
    found: Sequence[Problem] = ()
    try:
        manifest = read(inputs)
        found = manifest.warnings
    except ManifestError as error:
        found = error.problems
    match settings.output:
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
                summary = problems.summary(
                    found, problems.count_kinds(one.address for one in manifest.objects)
                )
                (err if any(problem.severity == "error" for problem in found) else out)(summary)
    if any(problem.severity == "error" for problem in found):
        raise click.exceptions.Exit(ManifestError.exit_code)


@verb(
    """
vsprov render servers/
vsprov render app.yaml.j2 --values prod.yaml --set tag=1.2
vsprov render servers/ --explain
""",
    outputs=("yaml", "json", "text"),
)
@click.option("--explain", is_flag=True, help="Print one line per value, with its origin.")
@options.manifest_inputs
def render(settings: Settings, inputs: Inputs, explain: bool) -> None:
    """Prints the documents with templates rendered, defaults filled in, and quotas merged into the servers
    that use them. The output format text is for --explain.
    """
    options.require_paths("render", inputs)
    manifest = read(inputs)
    settings.warn(manifest)
    if explain:
        rows = manifests.explain(manifest)
        if settings.output == "json":
            keys = ("address", "path", "value", "origin")
            out(problems.dump([dict(zip(keys, row, strict=True)) for row in rows]))
            return
        for address, path, value, origin in rows:
            out(f"{clean(address)}: {clean(path)} = {clean(value)}  # {clean(origin)}")
        return
    documents = manifests.render(manifest)
    if settings.output == "json":
        out(problems.dump({"items": documents}))
    else:
        from vsprov.manifest.syntax.dump import to_yaml

        out(to_yaml({**one, "spec": PLANNERS[one["kind"]].readable(one["spec"])} for one in documents))


@verb(
    """
vsprov schema > vsprov.schema.json
vsprov schema server
""",
    outputs=("json",),
)
@click.argument(
    "kind",
    metavar="[KIND]",
    default="manifest",
    help=f"manifest (any document), {', '.join(kind.word for kind in KINDS.values())}, or plan. "
    "[default: manifest]",
    shell_complete=complete.schemas,
)
def schema(settings: Settings, kind: str) -> None:
    """Prints a JSON Schema (draft 2020-12). Editors with a YAML language server use it to complete and check
    manifests that begin with this line:

    \b
    # yaml-language-server: $schema=vsprov.schema.json
    """
    name = kind.lower().removesuffix("s")
    if name not in schemas.names():
        raise UsageError(f"schema {kind}: no such schema", hint=f"choose from {', '.join(schemas.names())}")
    out(packaged(name))
