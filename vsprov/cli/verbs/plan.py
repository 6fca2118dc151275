"""Verbs that compare the manifest with the current state and change nothing: plan, show, diff."""

from __future__ import annotations

import os

import click

from vsprov.cli import complete_paths, options
from vsprov.cli.approval import losses_of
from vsprov.cli.verb import Settings, verb
from vsprov.engine.apply import converge
from vsprov.engine.desired import saved, wanted
from vsprov.engine.desired.inputs import Inputs
from vsprov.engine.desired.wanted import Volumes
from vsprov.engine.look import watched
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.render import plan as plan_text
from vsprov.render.problems import dump, error_lines
from vsprov.render.screen import clean, err, out


@verb(
    """
vsprov plan servers/
vsprov plan servers/ --out tonight.plan     # then: vsprov apply tonight.plan
vsprov plan servers/ -o json --detailed-exitcode
""",
    outputs=("text", "json"),
)
@click.option(
    "--out",
    "file",
    metavar="FILE",
    help="Save the plan to FILE, for `vsprov apply FILE`. Only a saved plan is replaced.",
    shell_complete=complete_paths.files,
)
@options.detailed_exitcode_option
@options.selector_option
@options.prune_option
@options.volume_options
@options.allow_empty_option
@options.set_name_option
@options.locked_option
@options.manifest_inputs
def plan(
    settings: Settings,
    inputs: Inputs,
    file: str | None,
    detailed_exitcode: bool,
    labels: str | None,
    prune: bool,
    allow_empty: bool,
    set_name: str | None,
    must_be_locked: bool,
    volumes: Volumes,
) -> None:
    """Compares the manifest with the current state of the kernel, field by field, and shows what apply would
    change and what each change costs: live (no interruption), restart (the server is restarted and
    keeps its files) or recreate (the server loses its files). Changes nothing and takes no lock.

    The JSON has the form of Terraform's plans; see `vsprov schema plan`.
    """
    options.require_paths("plan", inputs)
    if file in ("", "-"):
        hint = "use -o json to print the plan; only a saved plan can be applied"
        raise UsageError(f"--out {file!r}: not a file", hint=hint)
    desired = wanted.to_apply(
        settings.instance, inputs, set_name=set_name, labels=labels,
        prune=prune, allow_empty=allow_empty, must_be_locked=must_be_locked, volumes=volumes,
    )  # fmt: skip
    settings.warn(desired.manifest)
    process.require_root("plan: reading the state of servers")
    proposal = converge.propose(settings.instance, desired.wanted)
    settings.note_unwatched(watched.unwatched(settings.instance, proposal.now.observed))
    kept = False
    if file or settings.output == "json":
        document = saved.document(proposal, desired.manifest, desired.set_name)
        if file and not proposal.plan.problems:
            read = (*desired.manifest.files, *inputs.values)
            kept = saved.write(file, document | saved.recorded(proposal, inputs), read)
        if settings.output == "json":
            out(dump(document))
    if settings.output == "text" and (proposal.plan.changes or not proposal.plan.problems):
        losses = losses_of(settings, proposal)
        out(plan_text.text(proposal.plan, settings.stdout, verbose=settings.verbose > 0, losses=losses))
    if proposal.plan.problems:
        error = wanted.with_positions(converge.PlanError(proposal.plan.problems), desired.manifest)
        for line in error_lines(error):
            err(line)
        raise click.exceptions.Exit(error.exit_code)
    if kept and settings.output == "text" and not settings.quiet:
        err(f"Saved to {clean(file)}; to apply it: vsprov apply {clean(file)}")
    if detailed_exitcode and not proposal.plan.empty:
        raise click.exceptions.Exit(2)


@verb(
    """
vsprov show tonight.plan
vsprov show tonight.plan -o json | jq .summary
""",
    outputs=("text", "json"),
)
@click.argument(
    "path",
    metavar="PLANFILE",
    help="A plan that was saved by `vsprov plan --out`.",
    shell_complete=complete_paths.files,
)
def show(settings: Settings, path: str) -> None:
    """Prints a saved plan as `plan` printed it, with -v also its steps. It does not need root, and does not
    check whether the plan still fits: `vsprov apply PLANFILE` does.
    """
    if not saved.is_plan(path):
        hint = "vsprov plan PATH --out FILE saves one"
        raise UsageError(
            f"{path}: not a saved plan" if os.path.exists(path) else f"{path}: not found", hint=hint
        )
    content = saved.read(path, settings.instance).content
    if settings.output == "json":
        hidden = ("options", "documents", "shown")
        out(dump({key: value for key, value in content.items() if key not in hidden}))
        return
    if not settings.quiet:
        made = f"made on {content['host']} at {content['timestamp']} by vsprov {content['vsprov_version']}"
        head = clean(f"Plan for set {content['set']} of instance {settings.instance.name}, {made}")
        out(f"{head}\n\n")
    out(plan_text.text(saved.as_plan(content), settings.stdout, verbose=settings.verbose > 0))


@verb(
    """
vsprov diff servers/
vsprov diff servers/ | less -R
"""
)
@options.selector_option
@options.set_name_option
@options.manifest_inputs
def diff(settings: Settings, inputs: Inputs, labels: str | None, set_name: str | None) -> None:
    """Prints a unified diff from the current state, written as a manifest, to the given manifest, with values
    rounded as the kernel rounds them.

    Exit code 0 if there is no difference, 1 if there is one, above 1 on errors. Which files a server has
    changed is what `vsprov changes` lists.
    """
    from vsprov.engine.show.compare import compare
    from vsprov.render.diff import unified

    options.require_paths("diff", inputs)
    desired = wanted.to_apply(settings.instance, inputs, set_name=set_name, labels=labels)
    settings.warn(desired.manifest)
    process.require_root("diff: reading the state of servers")
    lines = [
        line
        for one in compare(settings.instance, desired.wanted.objects)
        for line in unified(one.before, one.observed, one.address, one.wanted, settings.stdout)
    ]
    if lines:
        out("\n".join(lines))
        raise click.exceptions.Exit(1)
