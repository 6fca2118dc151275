"""Verbs that look at manifest and kernel and change nothing: plan, diff."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from vsprov.cli import saved
from vsprov.cli.lock import locked
from vsprov.cli.manifest import read, warn
from vsprov.cli.options import (
    LOCKED,
    AllowEmpty,
    DetailedExitcode,
    ManifestVerb,
    Prune,
    Selector,
    SetName,
    Settings,
    inputs_of,
    settings_of,
    verb,
)
from vsprov.cli.project import owner_set
from vsprov.cli.selector import select
from vsprov.engine.apply import converge
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.manifest.load import Manifest
from vsprov.plan.reconcile import Wanted
from vsprov.render import plan as text
from vsprov.render.problems import dump, error_lines
from vsprov.render.screen import err, out


def wanted(
    settings: Settings,
    manifest: Manifest,
    owner: str,
    selector: str | None,
    prune: bool,
    allow_empty: bool,
    paths: Sequence[str],
    must_be_locked: bool,
) -> Wanted:
    """What an apply of the manifest asks for. UsageError for a --prune that could take more than meant."""
    if prune and selector is not None:
        raise UsageError("--prune: not together with -l", hint="a selection must not decide what is removed")
    if prune and not manifest.objects and not allow_empty:
        raise UsageError(
            f"--prune: the manifest is empty, so everything of set {owner} would go",
            hint="give --allow-empty if that is meant",
        )
    objects = select(locked(paths, manifest, must=must_be_locked), selector)
    selected = selector is not None
    name = settings.instance.name
    return Wanted(name, f"{name}/{owner}", objects, prune=prune, selected=selected)


@verb(
    """
vsprov plan servers/
vsprov plan servers/ --out tonight.plan     # then: vsprov apply tonight.plan
vsprov plan servers/ -o json --detailed-exitcode
""",
    ManifestVerb,
)
def plan(
    ctx: typer.Context,
    file: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Also save the plan, for `vsprov apply FILE`.")
    ] = None,
    detailed_exitcode: DetailedExitcode = False,
    selector: Selector = None,
    prune: Prune = False,
    allow_empty: AllowEmpty = False,
    set_name: SetName = None,
    must_be_locked: Annotated[bool, LOCKED] = False,
) -> None:
    """Compares the manifest with what the kernel has, field by field, and shows what apply would change and
    what each change costs: live (nothing is interrupted), restart (the server is restarted, its files
    stay), recreate (its files go, too). Nothing is changed and no lock is taken.

    Outputs (-o): text, json (as terraform shapes it; see `vsprov schema plan`).
    """
    settings, given = settings_of(ctx), inputs_of(ctx)
    form = settings.choose("text", "json")
    if file in ("", "-"):
        hint = "-o json prints the plan; only a plan in a file can be applied"
        raise UsageError(f"--out {file!r}: not a file", hint=hint)
    owner = owner_set(set_name, given.paths)
    manifest = read(given, settings.instance)
    warn(manifest, settings)
    want = wanted(settings, manifest, owner, selector, prune, allow_empty, given.paths, must_be_locked)
    process.require_root("plan: reading what servers there are")
    draft = converge.draft(settings.instance, want)
    if file or form == "json":
        document = saved.document(draft, manifest, owner)
        if file and not draft.plan.problems:
            saved.write(file, document | saved.recorded(draft, given))
        if form == "json":
            out(dump(document))
    if form == "text" and (draft.plan.changes or not draft.plan.problems):
        out(text.text(draft.plan, settings.stdout, verbose=settings.verbose > 0))
    if draft.plan.problems:
        error = placed(converge.PlanError(draft.plan.problems), manifest)
        for line in error_lines(error):
            err(line)
        raise typer.Exit(error.exit_code)
    if file and form == "text" and not settings.quiet:
        err(f"Saved to {file}; apply it with: vsprov apply {file}")
    if detailed_exitcode and not draft.plan.empty:
        raise typer.Exit(2)


def placed(error: converge.PlanError, manifest: Manifest) -> converge.PlanError:
    """The error with the place in the manifest of each problem that has one."""
    from dataclasses import replace

    return converge.PlanError(
        replace(problem, position=problem.position or manifest.position(problem.subject, problem.path))
        for problem in error.problems
    )


@verb(
    """
vsprov diff servers/
vsprov diff servers/ | less -R
""",
    ManifestVerb,
)
def diff(ctx: typer.Context, selector: Selector = None, set_name: SetName = None) -> None:
    """Prints a unified diff between the manifest of what is there and the given one, both as the kernel
    rounds them.

    Exit code 0 when they are the same, 1 when they differ, above 1 when something went wrong.
    """
    from vsprov.cli.diff import compare

    settings, given = settings_of(ctx), inputs_of(ctx)
    manifest = read(given, settings.instance)
    warn(manifest, settings)
    objects = select(locked(given.paths, manifest, must=False), selector)
    process.require_root("diff: reading what servers there are")
    lines = compare(settings, objects)
    if lines:
        out("\n".join(lines))
        raise typer.Exit(1)
