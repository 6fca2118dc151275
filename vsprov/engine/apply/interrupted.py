"""What a signal that ends a command leaves undone, for its user.

The lines are notes of the exception as which the signal unwinds the command (PEP 678).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from vsprov.engine.look import observe
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.waits import Aim
from vsprov.model.objects import few
from vsprov.plan.builder import Request
from vsprov.plan.plan import Change

AGAIN = "the same command again does what is left"
MOST_NAMES = 8  # in a command line that is suggested


@contextmanager
def explained(lines: Callable[[], Iterable[str]]) -> Iterator[None]:
    """If a signal ends what is done inside, its exception has these lines as notes."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception | GeneratorExit):
            for line in lines():
                error.add_note(line)
        raise


def left_of(context: ApplyContext, request: Request | None) -> Iterator[str]:
    """Lines about the changes that are not finished: in which states servers are, and how to go on."""
    left = [one for one in context.unfinished.values() if _is_shown(one)]
    return _lines(((one.kind, one.name, _state(context, one)) for one in left), left, request)


def not_begun(changes: Iterable[Change], aims: Iterable[Aim], request: Request | None) -> Iterator[str]:
    """Lines about changes that wait until servers are in a condition, and how to go on."""
    left = [one for one in changes if _is_shown(one)]
    awaited = (("Server", name, f"not {condition} yet") for name, condition in aims)
    return _lines((*awaited, *((one.kind, one.name, "not begun") for one in left)), left, request)


def _is_shown(change: Change) -> bool:
    return change.of_manifest and change.action != "no-op"


def _state(context: ApplyContext, change: Change) -> str:
    if change.key not in context.begun:
        return "not begun"
    if change.kind != "Server":
        return "interrupted"
    if change.name in context.stopping:
        return "was asked to stop, and is not killed if it does not"
    seen = observe.find(context.instance, context.hierarchies, context.machine, change.name)
    return f"interrupted; its state is {seen.state}" if seen else "interrupted; it does not exist"


def _lines(
    states: Iterable[tuple[str, str, str]], left: Iterable[Change], request: Request | None
) -> Iterator[str]:
    """A line for all (kind, name, state) that have the kind and the state in common, and the hint."""
    found: dict[tuple[str, str], list[str]] = {}
    for kind, name, state in states:
        found.setdefault((kind, state), []).append(name)
    for (kind, state), names in found.items():
        yield f"{few(names, kind)}: {state}"
    if found:
        yield f"  hint: {_command(request, sorted(one.name for one in left))}"


def _command(request: Request | None, names: list[str]) -> str:
    """What does the rest."""
    if request is not None and request.host:
        return f"vsprov {'boot' if request.action == 'start' else 'shutdown'}"
    if request is None or not 0 < len(names) <= MOST_NAMES:
        return AGAIN
    return f"vsprov {request.action} {' '.join(names)}"
