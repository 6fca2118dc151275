"""Verbs that create and remove objects: apply, destroy."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import click

from vsprov.cli import options
from vsprov.cli.approval import DECLINED, Approval, Losses
from vsprov.cli.options import WorkOptions
from vsprov.cli.verb import Settings, verb
from vsprov.engine import lifecycle
from vsprov.engine.apply import converge
from vsprov.engine.apply.converge import Outcome, PlanError, Proposal
from vsprov.engine.desired import saved, wanted
from vsprov.engine.desired.inputs import Inputs
from vsprov.engine.desired.wanted import Desired
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.manifest.load import Manifest
from vsprov.plan.builder import EVERY_SET
from vsprov.render import plan as plan_text
from vsprov.render import tables
from vsprov.render.problems import counted, dump, errors_as_json
from vsprov.render.progress import progress
from vsprov.render.screen import clean, err, out


@verb(
    """
vsprov apply servers/
vsprov apply -y -R . --prune                # in a pipeline; also removes objects that are not in the manifest
vsprov apply servers/ -l tier=web           # only these servers
vsprov apply tonight.plan                   # the plan saved by `vsprov plan --out tonight.plan`
""",
    outputs=("text", "json"),
)
@options.yes_option
@options.selector_option
@options.prune_option
@options.allow_empty_option
@options.set_name_option
@options.detailed_exitcode_option
@options.locked_option
@options.manifest_inputs
@options.settle_option
@options.work_options
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
    settle: float,
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
        if len(inputs.paths) > 1 or labels is not None or prune or set_name:
            hint = "omit other paths, -l, --prune and --set-name"
            raise UsageError(f"{inputs.paths[0]}: a saved plan can only be applied as it is", hint=hint)
        saved_plan = saved.read(inputs.paths[0], settings.instance)
        saved.refuse_changed_inputs(saved_plan)
        desired = saved_plan.desired
    else:
        desired = wanted.to_apply(
            settings.instance, inputs, set_name=set_name, labels=labels,
            prune=prune, allow_empty=allow_empty, must_be_locked=must_be_locked,
        )  # fmt: skip
        settings.warn(desired.manifest)
    process.require_root("apply: creating and changing servers")
    since = time.monotonic()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        approval = Approval(settings, report, yes or saved_plan is not None, saved_plan)
        outcome = _converge(settings, desired, approval, work, settle)
    if settings.output == "json":
        plan = saved.document(outcome.proposal, desired.manifest, desired.set_name)
        out(dump({**plan, "outcome": _outcome(outcome)}))
    _conclude(settings, outcome, time.monotonic() - since - approval.waited)
    if detailed_exitcode and not outcome.proposal.plan.empty:
        raise click.exceptions.Exit(2)


@verb(
    """
vsprov destroy servers/
vsprov destroy servers/web.yaml -y
vsprov destroy --all                        # everything of this instance
""",
    outputs=("text", "json"),
)
@click.option("--all", "everything", is_flag=True, help="All objects of the instance, of every set.")
@options.yes_option
@options.selector_option
@options.set_name_option
@options.manifest_inputs
@options.work_options
def destroy(
    settings: Settings,
    inputs: Inputs,
    work: WorkOptions,
    everything: bool,
    yes: bool,
    labels: str | None,
    set_name: str | None,
) -> None:
    """Stops and removes the servers, networks, quotas and images of the manifest, with all files that the
    servers have written. Nothing is removed if any of these objects belongs to another set, was not created
    by vsprov, or is used by a server that remains. An image that other sets have as well is kept for them.
    """
    if everything == bool(inputs.paths):
        raise UsageError("destroy: specify either PATH or --all")
    if everything and labels is not None:
        raise UsageError("destroy --all: cannot be combined with -l")
    desired = None
    if inputs.paths:
        desired = wanted.to_remove(settings.instance, inputs, set_name=set_name, labels=labels)
    process.require_root("destroy: stopping and removing servers")
    since = time.monotonic()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        approval = Approval(settings, report, yes, question=partial(_question, settings))
        if desired is None:
            outcome = lifecycle.destroy_all(
                settings.instance,
                report,
                approve=approval,
                asks=not approval.yes,
                parallelism=work.parallelism,
                lock_timeout=work.lock_timeout,
            )
        else:
            outcome = _converge(settings, desired, approval, work)
    if settings.output == "json":
        manifest, name = (desired.manifest, desired.set_name) if desired else (Manifest(), "*")
        plan = saved.document(outcome.proposal, manifest, name)
        out(dump({**plan, "outcome": _outcome(outcome)}))
    _conclude(settings, outcome, time.monotonic() - since - approval.waited)


def _question(settings: Settings, proposal: Proposal, losses: Losses) -> str:
    """The question before a destroy, which names what cannot be brought back."""
    images = [one.name for one in proposal.plan.objects if (one.kind, one.action) == ("Image", "delete")]
    servers = sum((one.kind, one.action) == ("Server", "delete") for one in proposal.plan.objects)
    lost = sum(losses.values())
    written = f", with {tables.size(lost)} of written files" if lost else ""
    what = [f"{counted(servers, 'server')}{written}"] if servers else []
    what += [f"image{'s' if len(images) > 1 else ''} {', '.join(images)}"] if images else []
    rest = f": {'; '.join(what)}" if what else ""
    objects = "everything" if proposal.wanted.owner.endswith(f"/{EVERY_SET}") else "these objects"
    return f"Destroy {objects} of instance {settings.instance.name} on {os.uname().nodename}{rest}?"


def _converge(
    settings: Settings, desired: Desired, approval: Approval, work: WorkOptions, settle: float = 0
) -> Outcome:
    """Apply what is wanted; problems that only the host shows get their place in the manifest."""
    try:
        return converge.apply(
            settings.instance,
            desired.wanted,
            approval.report,
            approve=approval,
            asks=not approval.yes,
            parallelism=work.parallelism,
            lock_timeout=work.lock_timeout,
            settle_seconds=settle,
        )
    except PlanError as error:
        raise wanted.with_positions(error, desired.manifest) from None


def _conclude(settings: Settings, outcome: Outcome, seconds: float) -> None:
    """Print the result; raises Exit if it was declined, failed, or the state still differs."""
    if not outcome.approved:
        err("Nothing was changed.")
        raise click.exceptions.Exit(DECLINED)
    plan = outcome.proposal.plan
    made = [change for change in plan.objects if not failed(outcome, change.address)]
    for name, how in outcome.exits.items():
        show_exit(settings, name, how)
    if outcome.errors or outcome.exits:
        # The rest of what differs is the consequence of these.
        addresses = {key.partition("#")[0] for key in outcome.errors}
        count = len(addresses | {f"Server/{name}" for name in outcome.exits})
        err(f"vsprov: {count} of {len(made) + count} failed: {plan_text.result(made)}")
        raise click.exceptions.Exit(1)
    if outcome.left is not None and not outcome.left.empty:
        err(f"vsprov: {plan_text.left_over(outcome.left, settings.stderr)}")
        for change in outcome.left.objects:
            if change.kind == "Server":
                _show_console(settings, change.name)
        raise click.exceptions.Exit(1)
    if settings.output == "text" and not plan.empty and not settings.quiet:
        out(f"Done: {plan_text.result(made)} ({seconds:.1f}s)")


def failed(outcome: Outcome, address: str) -> bool:
    ended = any(address == f"Server/{name}" for name in outcome.exits)
    return ended or any(key.partition("#")[0] == address for key in outcome.errors)


def show_exit(settings: Settings, name: str, how: str) -> None:
    """Print that the command of a started server has ended, and what it wrote last."""
    err(f"vsprov: Server/{clean(name)}: started, but its command {clean(how)}")
    _show_console(settings, name)
    err(f"  hint: vsprov logs {clean(name)}; for a command that is meant to end, set init.oneshot: true")


def _show_console(settings: Settings, name: str) -> None:
    from vsprov.engine.guests.console_log import last_lines

    for line in last_lines(settings.instance, name, 5):
        err(f"  {clean(name)}: {clean(line)}")


def _outcome(outcome: Outcome) -> dict[str, Any]:
    plan = outcome.proposal.plan
    return {
        "approved": outcome.approved,
        "done": [
            change.address
            for change in plan.objects
            if outcome.approved and not failed(outcome, change.address)
        ],
        "errors": errors_as_json(outcome.errors),
        "left": [change.address for change in outcome.left.changes] if outcome.left else [],
        "exits": dict(outcome.exits),
        "unhandledSignals": dict(outcome.unhandled),
    }
