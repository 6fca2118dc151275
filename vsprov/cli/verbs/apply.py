"""The verb apply, and how those that take manifests end."""

from __future__ import annotations

import time

import click

from vsprov.cli import options
from vsprov.cli.approval import DECLINED, Approval
from vsprov.cli.outcomes import failed, outcome_document, show_console, show_exit, show_unready
from vsprov.cli.verb import Settings, verb
from vsprov.engine.apply import command
from vsprov.engine.apply.converge import Outcome, PlanError
from vsprov.engine.desired import saved, wanted
from vsprov.engine.desired.inputs import Inputs
from vsprov.engine.desired.wanted import Desired, Volumes
from vsprov.engine.work import WorkOptions
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.render import plan as plan_text
from vsprov.render.problems import dump
from vsprov.render.progress import progress
from vsprov.render.screen import err, out


@verb(
    """
vsprov apply servers/
vsprov apply -y -R . --prune                # in a pipeline; also removes objects that are not in the manifest
vsprov apply servers/ -l tier=web           # only these servers
vsprov apply -y servers/ --wait             # until all of them are ready
vsprov apply tonight.plan                   # the plan saved by `vsprov plan --out tonight.plan`
""",
    outputs=("text", "json"),
)
@options.yes_option
@options.selector_option
@options.prune_option
@options.volume_options
@options.allow_empty_option
@options.set_name_option
@options.detailed_exitcode_option
@options.locked_option
@options.manifest_inputs
@options.work_options
@options.settle_option
@options.wait_option
def apply(
    settings: Settings,
    inputs: Inputs,
    work: WorkOptions,
    yes: bool,
    labels: str | None,
    prune: bool,
    allow_empty: bool,
    set_name: str | None,
    detailed_exitcode: bool,
    must_be_locked: bool,
    volumes: Volumes,
) -> None:
    """Shows the plan, asks for confirmation, carries the plan out and checks the result: apply succeeds only
    if the state of the kernel then matches the manifest. Only what differs is changed, so a second apply
    does nothing.

    PATH may be a saved plan. It is applied without confirmation, and refused if the manifest or the host
    has changed since it was saved.
    """
    options.require_paths("apply", inputs)
    saved_plan: saved.SavedPlan | None = None
    if saved.is_plan(inputs.paths[0]):
        if len(inputs.paths) > 1 or labels is not None or prune or volumes or set_name:
            hint = "omit other paths, -l, --prune, --volumes, --delete-data and --set-name"
            raise UsageError(f"{inputs.paths[0]}: a saved plan can only be applied as it is", hint=hint)
        saved_plan = saved.read(inputs.paths[0], settings.instance)
        saved.refuse_changed_inputs(saved_plan)
        desired = saved_plan.desired
    else:
        desired = wanted.to_apply(
            settings.instance, inputs, set_name=set_name, labels=labels,
            prune=prune, allow_empty=allow_empty, must_be_locked=must_be_locked, volumes=volumes,
        )  # fmt: skip
        settings.warn(desired.manifest)
    process.require_root("apply: creating and changing servers")
    since = time.monotonic()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        approval = Approval(settings, report, yes or saved_plan is not None, saved_plan)
        outcome = converged(settings, desired, approval, work)
    if settings.output == "json":
        plan = saved.document(outcome.proposal, desired.manifest, desired.set_name)
        out(dump({**plan, "outcome": outcome_document(outcome)}))
    conclude(settings, outcome, time.monotonic() - since - approval.waited)
    if detailed_exitcode and not outcome.proposal.plan.empty:
        raise click.exceptions.Exit(2)


def converged(settings: Settings, desired: Desired, approval: Approval, work: WorkOptions) -> Outcome:
    """Apply what is wanted; problems that only the host shows get their place in the manifest."""
    try:
        return command.apply(
            settings.instance,
            desired.wanted,
            approval.report,
            approve=approval,
            asks=not approval.yes,
            work=work,
        )
    except PlanError as error:
        raise wanted.with_positions(error, desired.manifest) from None


def conclude(settings: Settings, outcome: Outcome, seconds: float) -> None:
    """Print the result; raises Exit if it was declined, failed, or the state still differs."""
    if not outcome.approved:
        err("Nothing was changed.")
        raise click.exceptions.Exit(DECLINED)
    plan = outcome.proposal.plan
    made = [change for change in plan.objects if not failed(outcome, change.address)]
    for name, how in outcome.exits.items():
        show_exit(settings, name, how)
    for name, why in outcome.unready.items():
        show_unready(settings, name, why)
    if outcome.errors or outcome.exits or outcome.unready:
        # The rest of what differs is the consequence of these.
        addresses = {key.partition("#")[0] for key in outcome.errors}
        count = len(addresses | {f"Server/{name}" for name in (*outcome.exits, *outcome.unready)})
        err(f"vsprov: {count} of {len(made) + count} failed: {plan_text.result(made)}")
        raise click.exceptions.Exit(1)
    if outcome.left is not None and not outcome.left.empty:
        err(f"vsprov: {plan_text.left_over(outcome.left, settings.stderr)}")
        for change in outcome.left.objects:
            if change.kind == "Server":
                show_console(settings, change.name)
        raise click.exceptions.Exit(1)
    if settings.output == "text" and not plan.empty and not settings.quiet:
        out(f"Done: {plan_text.result(made)} ({seconds:.1f}s)")
