"""The two halves of a start: a guest that waits at its gate, and the opening of the gate."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from vsprov.engine.run import outcome
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import NextEvent, Wait
from vsprov.engine.run.spawn import SECONDS_TO_ANSWER
from vsprov.errors import StepError

if TYPE_CHECKING:
    from vsprov.guest.wire import Guest, Ready


def spawn(context: ApplyContext, guest: Guest) -> Generator[Wait, Any, Ready]:
    """Create a guest, which then waits at its gate: the event with its number and its first process."""
    number = context.start_spawner().request(guest)
    event = yield from _answer(context, number)
    if event["event"] == "failed":
        raise StepError(f"start: {outcome.explain(event)}", hint=outcome.hint(event))
    ready: Ready = event
    return ready


def release(context: ApplyContext, number: int) -> Generator[Wait, Any, None]:
    """Open the gate; returns when the guest has executed its command."""
    context.start_spawner().release(number)
    event = yield from _answer(context, number)
    if event["event"] == "failed":
        raise StepError(f"start: {outcome.explain(event)}", hint=outcome.hint(event))


def _answer(context: ApplyContext, number: int) -> Generator[Wait, Any, Any]:
    """The spawner's next event for a guest. StepError if it does not come; then it is asked nothing more."""
    event = yield NextEvent(number, SECONDS_TO_ANSWER)
    if event is None:
        raise context.start_spawner().give_up(SECONDS_TO_ANSWER)
    return event


def wait(context: ApplyContext, number: int) -> Generator[Wait, Any, int]:
    """Wait until the command of a released guest ends: its exit code, 128 + N when signal N ended it."""
    # It may have been read together with the event before it.
    event: Any = context.exits.pop(number, None) or (yield NextEvent(number))
    return outcome.exit_code(event)
