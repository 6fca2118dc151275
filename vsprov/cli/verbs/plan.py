"""Verbs that look at manifest and kernel and change nothing: plan, diff."""

from __future__ import annotations

from typing import Annotated

import typer

from vsprov.cli.options import (
    LOCKED,
    AllowEmpty,
    DetailedExitcode,
    ManifestVerb,
    Prune,
    Selector,
    SetName,
    inputs_of,
    settings_of,
    verb,
)
from vsprov.cli.verbs.manifest import warn
from vsprov.engine.apply import converge
from vsprov.engine.desired import saved, wanted
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.render import plan as text
from vsprov.render.problems import dump, error_lines
from vsprov.render.screen import err, out


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
    desired = wanted.to_apply(
        settings.instance, given, set_name=set_name, labels=selector,
        prune=prune, allow_empty=allow_empty, must_be_locked=must_be_locked,
    )  # fmt: skip
    warn(desired.manifest, settings)
    process.require_root("plan: reading what servers there are")
    draft = converge.draft(settings.instance, desired.wanted)
    if file or form == "json":
        document = saved.document(draft, desired.manifest, desired.set_name)
        if file and not draft.plan.problems:
            saved.write(file, document | saved.recorded(draft, given))
        if form == "json":
            out(dump(document))
    if form == "text" and (draft.plan.changes or not draft.plan.problems):
        out(text.text(draft.plan, settings.stdout, verbose=settings.verbose > 0))
    if draft.plan.problems:
        error = wanted.with_positions(converge.PlanError(draft.plan.problems), desired.manifest)
        for line in error_lines(error):
            err(line)
        raise typer.Exit(error.exit_code)
    if file and form == "text" and not settings.quiet:
        err(f"Saved to {file}; apply it with: vsprov apply {file}")
    if detailed_exitcode and not draft.plan.empty:
        raise typer.Exit(2)


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
    from vsprov.engine.look.compare import compare
    from vsprov.render.diff import unified

    settings, given = settings_of(ctx), inputs_of(ctx)
    desired = wanted.to_apply(settings.instance, given, set_name=set_name, labels=selector)
    warn(desired.manifest, settings)
    process.require_root("diff: reading what servers there are")
    lines = [
        line
        for one in compare(settings.instance, desired.wanted.objects)
        for line in unified(one.address, one.observed, one.wanted, settings.stdout)
    ]
    if lines:
        out("\n".join(lines))
        raise typer.Exit(1)
