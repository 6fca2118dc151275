"""What the verbs that carry out plans say of single objects.

Apart from those verbs, because not all of them read manifests: what that takes is a seventh of the start of a
short command.
"""

from __future__ import annotations

from typing import Any

from vsprov.cli.verb import Settings
from vsprov.engine.apply.converge import Outcome
from vsprov.render.problems import errors_as_json
from vsprov.render.screen import clean, err


def failed(outcome: Outcome, address: str) -> bool:
    """Whether an object was not changed as it should, or does not run as it should after it."""
    ended = any(address == f"Server/{name}" for name in (*outcome.exits, *outcome.unready))
    return ended or any(key.partition("#")[0] == address for key in outcome.errors)


def show_exit(settings: Settings, name: str, how: str) -> None:
    """Print that the command of a started server has ended, and what it wrote last."""
    err(f"vsprov: Server/{clean(name)}: started, but its command {clean(how)}")
    show_console(settings, name)
    err(f"  hint: vsprov logs {clean(name)}; for a command that is meant to end, set init.oneshot: true")


def show_unready(settings: Settings, name: str, why: str) -> None:
    """Print that a server is not ready, and what it wrote last."""
    err(f"vsprov: Server/{clean(name)}: {clean(why)}")
    show_console(settings, name)


def show_console(settings: Settings, name: str) -> None:
    """Print what a server wrote last."""
    from vsprov.engine.logs.files import last_lines

    for line in last_lines(settings.instance, name, 5):
        err(f"  {clean(name)}: {clean(line)}")


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """What was done, for JSON."""
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
        "notReady": dict(outcome.unready),
    }
