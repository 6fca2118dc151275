"""Verbs that make and remove: apply, destroy."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from vsprov.cli.options import (
    LOCKED,
    AllowEmpty,
    ChangingVerb,
    DetailedExitcode,
    Prune,
    Selector,
    SetName,
    Settings,
    Work,
    Yes,
    inputs_of,
    settings_of,
    verb,
    work_of,
)
from vsprov.cli.verbs.manifest import warn
from vsprov.engine import lifecycle
from vsprov.engine.apply import converge
from vsprov.engine.apply.converge import Draft, Outcome, PlanError
from vsprov.engine.desired import saved, wanted
from vsprov.engine.desired.wanted import Desired
from vsprov.errors import UsageError
from vsprov.kernel import process
from vsprov.manifest.load import Manifest
from vsprov.render import plan as text
from vsprov.render.problems import dump
from vsprov.render.progress import Lines, progress
from vsprov.render.screen import err, out

DECLINED = 130  # as for Ctrl-C at the question: neither done nor failed


@verb(
    """
vsprov apply servers/
vsprov apply -y -R . --prune                # in a pipeline: also removes what the manifest no longer has
vsprov apply servers/ -l tier=web           # only these servers
vsprov apply tonight.plan                   # exactly what `vsprov plan --out tonight.plan` showed
""",
    ChangingVerb,
)
def apply(
    ctx: typer.Context,
    yes: Yes = False,
    selector: Selector = None,
    prune: Prune = False,
    allow_empty: AllowEmpty = False,
    set_name: SetName = None,
    detailed_exitcode: DetailedExitcode = False,
    must_be_locked: Annotated[bool, LOCKED] = False,
) -> None:
    """Shows the plan, asks, does it, and looks again: what the kernel then has is what the manifest says,
    or the apply has failed and says where. Only what differs is touched. A second apply has nothing to
    do.

    A PATH may be a saved plan; it is done without asking, and refused when the manifest or the host has
    changed since.

    Outputs (-o): text, json.
    """
    settings, given, work = settings_of(ctx), inputs_of(ctx), work_of(ctx)
    form = settings.choose("text", "json")
    job: saved.SavedPlan | None = None
    if saved.is_plan(given.paths[0]):
        if len(given.paths) > 1 or selector is not None or prune or set_name:
            hint = "without other paths, -l, --prune or --set-name"
            raise UsageError(f"{given.paths[0]}: a saved plan is applied alone, as it is", hint=hint)
        job = saved.read(given.paths[0], settings.instance)
        saved.refuse_changed_inputs(job)
        desired = job.desired
    else:
        desired = wanted.to_apply(
            settings.instance, given, set_name=set_name, labels=selector,
            prune=prune, allow_empty=allow_empty, must_be_locked=must_be_locked,
        )  # fmt: skip
        warn(desired.manifest, settings)
    process.require_root("making servers")
    since = time.monotonic()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        approval = Approval(settings, form, report, yes or job is not None, job)
        outcome = _converge(settings, desired, approval, work)
    if form == "json":
        plan = saved.document(outcome.draft, desired.manifest, desired.set_name)
        out(dump({**plan, "outcome": _outcome(outcome)}))
    conclude(settings, form, outcome, time.monotonic() - since)
    if detailed_exitcode and not outcome.draft.plan.empty:
        raise typer.Exit(2)


class Approval:
    """Shows the plan, and asks whether it may be done."""

    def __init__(
        self,
        settings: Settings,
        form: str,
        report: Lines,
        yes: bool,
        job: saved.SavedPlan | None = None,
        question: str = "",
    ) -> None:
        self.settings, self.form, self.report, self.yes, self.job = settings, form, report, yes, job
        self.question = question or "Apply this plan?"

    def __call__(self, draft: Draft) -> bool:
        if self.job is not None:
            saved.refuse_changed_world(self.job, draft)
        shown = self.form == "text" and not (self.settings.quiet and self.yes)
        if shown or not self.yes:
            tell, screen = (out, self.settings.stdout) if self.form == "text" else (err, self.settings.stderr)
            tell(text.text(draft.plan, screen, verbose=self.settings.verbose > 0))
        if draft.plan.empty:
            return True
        if not self.yes and not confirm(self.question):
            return False
        self.report.expect(len(draft.plan.changes))
        return True


def confirm(question: str) -> bool:
    """Ask on the terminal; only "y" and "yes" mean yes. Raises UsageError where nobody can be asked."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "there is nobody to ask: standard input is not a terminal",
            hint="give --yes (-y) to go ahead without asking",
        )
    if sys.stdout is not None:
        sys.stdout.flush()
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def conclude(settings: Settings, form: str, outcome: Outcome, seconds: float) -> None:
    """Say how it ended; typer.Exit when it was declined, failed, or left something to do."""
    if not outcome.approved:
        err("Nothing was changed.")
        raise typer.Exit(DECLINED)
    plan = outcome.draft.plan
    made = [change for change in plan.objects if not _failed(outcome, change.address)]
    if outcome.errors:
        failed = len({key.partition("#")[0] for key in outcome.errors})
        err(f"vsprov: {failed} of {len(made) + failed} failed: {text.result(made)}")
        raise typer.Exit(1)
    if outcome.left is not None and not outcome.left.empty:
        err(f"vsprov: {text.left_over(outcome.left, outcome.exits, settings.stderr)}")
        for change in outcome.left.objects:
            if change.kind == "Server":
                _show_console(settings, change.name)
        raise typer.Exit(1)
    if form == "text" and not plan.empty and not settings.quiet:
        out(f"Done: {text.result(made)} ({seconds:.1f}s)")


def _failed(outcome: Outcome, address: str) -> bool:
    return any(key.partition("#")[0] == address for key in outcome.errors)


def _show_console(settings: Settings, name: str) -> None:
    from vsprov.engine.guests.console import last_lines
    from vsprov.render.screen import clean

    for line in last_lines(settings.instance, name, 5):
        err(f"  {clean(name)}: {clean(line)}")


def _outcome(outcome: Outcome) -> dict[str, Any]:
    plan = outcome.draft.plan
    return {
        "approved": outcome.approved,
        "done": [
            change.address
            for change in plan.objects
            if outcome.approved and not _failed(outcome, change.address)
        ],
        "errors": [
            {"address": key.partition("#")[0], "message": str(error), "hint": error.hint}
            for key, error in outcome.errors.items()
        ],
        "left": [change.address for change in outcome.left.changes] if outcome.left else [],
        "exits": dict(outcome.exits),
    }


@verb(
    """
vsprov destroy servers/
vsprov destroy servers/web.yaml -y
vsprov destroy --all                        # everything of this instance
""",
    ChangingVerb,
)
def destroy(
    ctx: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Everything of this instance, whichever set it belongs to.")
    ] = False,
    yes: Yes = False,
    selector: Selector = None,
    set_name: SetName = None,
) -> None:
    """The reverse of apply: stops and removes the servers, quotas and images of the manifest, with
    everything the servers have written. Refused as a whole when servers that stay use some of it,
    or when some of it was made by another set or not by vsprov.

    Outputs (-o): text, json.
    """
    settings, given, work = settings_of(ctx), inputs_of(ctx, needed=False), work_of(ctx)
    form = settings.choose("text", "json")
    if everything == bool(given.paths):
        raise UsageError("destroy: give either PATHs or --all")
    if everything and selector is not None:
        raise UsageError("destroy --all: not together with -l")
    desired = None
    if given.paths:
        desired = wanted.to_remove(settings.instance, given, set_name=set_name, labels=selector)
    process.require_root("destroy: stopping and removing servers")
    since = time.monotonic()
    with progress(settings.stderr, quiet=settings.quiet) as report:
        approval = Approval(settings, form, report, yes, question="Destroy these?")
        if desired is None:
            outcome = lifecycle.destroy_all(
                settings.instance,
                report,
                approve=approval,
                parallelism=work.parallelism,
                lock_timeout=work.lock_timeout,
            )
        else:
            outcome = _converge(settings, desired, approval, work)
    if form == "json":
        manifest, name = (desired.manifest, desired.set_name) if desired else (Manifest(), "*")
        plan = saved.document(outcome.draft, manifest, name)
        out(dump({**plan, "outcome": _outcome(outcome)}))
    conclude(settings, form, outcome, time.monotonic() - since)


def _converge(settings: Settings, desired: Desired, approval: Approval, work: Work) -> Outcome:
    """Apply what is wanted; problems that only the host shows get their place in the manifest."""
    try:
        return converge.apply(
            settings.instance,
            desired.wanted,
            approval.report,
            approve=approval,
            parallelism=work.parallelism,
            lock_timeout=work.lock_timeout,
        )
    except PlanError as error:
        raise wanted.with_positions(error, desired.manifest) from None
