"""Asking before something is changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from vsprov.cli.verb import Settings
from vsprov.engine.apply.converge import Proposal
from vsprov.engine.desired import saved
from vsprov.engine.desired.saved import SavedPlan
from vsprov.errors import UsageError
from vsprov.render import plan as plan_text
from vsprov.render.progress import Lines
from vsprov.render.screen import err, out

DECLINED = 130  # exit code, as for Ctrl-C at the question: neither done nor failed


Losses = Mapping[str, int]


class Approval:
    """Shows a plan, asks whether to carry it out, and refuses a saved plan that no longer fits."""

    def __init__(
        self,
        settings: Settings,
        report: Lines,
        yes: bool,
        saved_plan: SavedPlan | None = None,
        question: Callable[[Proposal, Losses], str] = lambda proposal, losses: "Apply this plan?",
    ) -> None:
        self.settings, self.report, self.yes = settings, report, yes
        self.saved_plan, self.question = saved_plan, question
        self.waited = 0.0  # seconds for answers

    def __call__(self, proposal: Proposal) -> bool:
        settings, text = self.settings, self.settings.output == "text"
        if self.saved_plan is not None:
            saved.refuse_changed_world(self.saved_plan, proposal)
        losses = losses_of(settings, proposal, of_servers=not self.yes)
        if not self.yes or (text and not settings.quiet):
            write, screen = (out, settings.stdout) if text else (err, settings.stderr)
            write(plan_text.text(proposal.plan, screen, verbose=settings.verbose > 0, losses=losses))
        if proposal.plan.empty:
            return True
        if not self.yes:
            question, since = self.question(proposal, losses), time.monotonic()
            agreed = confirm(question)
            self.waited += time.monotonic() - since
            if not agreed:
                return False
        self.report.expect(len(proposal.plan.changes))
        return True


def losses_of(settings: Settings, proposal: Proposal, *, of_servers: bool = True) -> Losses:
    """What the plan would remove for ever; see `destroy.losses`."""
    removes = any(change.action in ("delete", "replace") for change in proposal.plan.objects)
    if not removes or (settings.quiet and not of_servers):
        return {}
    from vsprov.engine import destroy

    return destroy.losses(settings.instance, proposal.plan, of_servers=of_servers)


def confirm(question: str) -> bool:
    """Ask on the terminal; only "y" and "yes" mean yes. Raises UsageError without a terminal."""
    if sys.stdin is None or sys.stderr is None or not sys.stdin.isatty():
        raise UsageError(
            "cannot ask for confirmation: standard input is not a terminal",
            hint="use --yes (-y) to continue without asking",
        )
    if sys.stdout is not None:
        sys.stdout.flush()
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
