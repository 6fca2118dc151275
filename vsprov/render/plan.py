"""A plan as people read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from vsprov.plan.compare.diff import flatten
from vsprov.plan.kinds.planner import PLANNERS
from vsprov.plan.plan import Change, PathChange, Plan, show
from vsprov.plan.steps import Stop
from vsprov.render.problems import count_kinds, counted
from vsprov.render.screen import Screen, clean
from vsprov.render.tables import size

# Action: (sign, its ASCII form, color, word for the completed action).
ACTIONS = {
    "create": ("+", "+", "green", "created"),
    "update": ("~", "~", "yellow", "updated"),
    "replace": ("-/+", "-/+", "red", "replaced"),
    "delete": ("-", "-", "red", "destroyed"),
}
# Costs that are shown as warnings: (text, its ASCII form).
COSTS = {"restart": ("↻ restart", "! restart"), "recreate": ("↻ recreate", "! recreate")}
_LONGEST = 160  # characters of a value; of longer ones, only the part that changes is shown
_AROUND = 24  # characters that are shown before and after that part


def text(
    plan: Plan, screen: Screen, *, verbose: bool = False, losses: Mapping[str, int] = MappingProxyType({})
) -> str:
    """The plan: every object with its changes, and a summary; for an empty plan, one line.

    `losses` are the bytes that are lost with an object, by address.
    """
    if plan.empty:
        return "\n".join([nothing_to_do(plan), *_standing(plan, screen), *_unlisted(plan)])
    shown = plan.changes if verbose or not plan.objects else plan.objects
    parts = [_change(change, screen, verbose, losses.get(change.address)) for change in shown]
    ending = (*_standing(plan, screen), *_unlisted(plan))
    return "\n".join([*parts, "", screen.paint(summary(plan), "bold"), *ending])


def _standing(plan: Plan, screen: Screen) -> list[str]:
    """The notes on objects that do not change."""
    return [screen.paint(line, "dim") for line in grouped_notes(plan.unchanged_notes())]


def grouped_notes(notes: Mapping[str, Iterable[str]]) -> list[str]:
    """Lines for {address: notes}: each note once, with the objects that it is about."""
    about: dict[str, list[str]] = {}
    for address, texts in notes.items():
        for text in texts:
            about.setdefault(text, []).append(address)
    return [
        clean(f"note: {', '.join(addresses[:5])}{', …' if len(addresses) > 5 else ''}: {text}")
        for text, addresses in about.items()
    ]


def _unlisted(plan: Plan) -> list[str]:
    """The objects of this set that are not in the manifest and are kept."""
    volumes = [one for one in plan.unlisted if one.startswith("Volume/")]
    others = [one for one in plan.unlisted if one not in volumes]
    # A file that was not given may declare them.
    return [
        f"Kept, not in the manifest: {', '.join(names[:5])}{', …' if len(names) > 5 else ''} ({how})"
        for names, how in (
            (others, "--prune removes what no given file declares"),
            (volumes, "--prune --volumes removes empty ones that no given file declares"),
        )
        if names
    ]


def nothing_to_do(plan: Plan) -> str:
    """The line for an empty plan: "Nothing to do: 3 servers, 1 image match the manifest."."""
    if not plan.unchanged:
        return "Nothing to do."
    total = count_kinds(plan.unchanged)
    match = "matches" if len(plan.unchanged) == 1 else "match"
    return f"Nothing to do: {', '.join(total)} {match} the manifest."


def summary(plan: Plan) -> str:
    """The last line of a plan: "Plan: 3 to add, 1 to change, 0 to destroy; 1 restart"."""
    count = plan.summary()
    parts = [f"{count['add']} to add", f"{count['change']} to change"]
    if count["replace"]:
        parts.append(f"{count['replace']} to replace")
    parts.append(f"{count['destroy']} to destroy")
    return f"Plan: {', '.join(parts)}" + (
        f"; {counted(count['restart'], 'restart')}" if count["restart"] else ""
    )


def result(changes: Iterable[Change]) -> str:
    """The summary of completed changes: "3 added, 1 changed, 0 destroyed; 1 restarted"."""
    count = Plan(tuple(changes)).summary()
    parts = [f"{count['add']} added", f"{count['change']} changed"]
    if count["replace"]:
        parts.append(f"{count['replace']} replaced")
    parts.append(f"{count['destroy']} destroyed")
    return ", ".join(parts) + (f"; {count['restart']} restarted" if count["restart"] else "")


_REQUESTED = {"start": "started", "stop": "stopped", "restart": "restarted"}


def done(change: Change) -> str:
    """The word for a completed change: "created", "restarted"."""
    if change.reason == "stop" and not any(isinstance(step, Stop) for step in change.steps):
        return "was not running, and stays so"
    if change.reason in _REQUESTED:
        return _REQUESTED[change.reason]
    if any(path.path == "metadata.name" for path in change.paths):
        return "renamed"
    if change.action == "update" and change.cost == "restart":
        return "restarted"
    if change.action == "update" and [path.path for path in change.paths] == ["spec.state"]:
        before, after = change.paths[0].before, change.paths[0].after
        if before != "Frozen":
            return "started" if after == "Running" else "stopped"
    return ACTIONS[change.action][3] if change.action in ACTIONS else "done"


def _change(change: Change, screen: Screen, verbose: bool, lost: int | None = None) -> str:
    sign, plain, color, _ = ACTIONS.get(change.action, ("~", "~", "yellow", ""))
    mark = screen.paint(f"{screen.sign(sign, plain):>3}", color, "bold")
    head = f"{mark} {screen.paint(clean(change.address), 'bold')}"
    if change.phase:
        head += f" ({change.phase.replace('-', ' ')})"
    if change.cost in COSTS and change.action != "delete":
        warning = "red" if change.cost == "recreate" else "yellow"
        head += f"  {screen.paint(screen.sign(*COSTS[change.cost]), warning)}"
    if change.reason == "drift":
        head += f"  {screen.paint(f'({change.reason})', 'dim')}"
    if lost and change.of_manifest:
        what = "data" if change.kind == "Volume" else "written files"
        head += f"  ({size(lost)} of {what} will be lost)"
    lines = [head, *(f"      {_path(path, screen, verbose)}" for path in change.paths)]
    lines += [f"      {screen.paint(f'note: {clean(note)}', 'dim')}" for note in change.notes]
    if verbose:
        lines += [f"      {clean(line)}" for line in _spec(change)]
        lines += [f"      {screen.paint(clean(step.describe()), 'dim')}" for step in change.steps]
    return "\n".join(lines)


def _spec(change: Change) -> list[str]:
    """The spec of a new object, a line for each key."""
    if change.action not in ("create", "replace") or not change.desired or change.kind not in PLANNERS:
        return []
    readable = PLANNERS[change.kind].readable(change.desired)
    return [f"spec.{path}: {show(value)}" for path, value in flatten(readable).items() if value is not None]


def _path(path: PathChange, screen: Screen, verbose: bool) -> str:
    shown = _quoted(path.shown)
    excerpts = shown if verbose else _excerpts(shown)
    before, after = map(_visible, excerpts)
    import unicodedata

    if unicodedata.normalize("NFKC", before) == unicodedata.normalize("NFKC", after):
        before, after = map(json.dumps, excerpts)  # they look the same: a newline and \n, é in its two forms
    if not screen.unicode:
        before, after = (value.replace("—", "-") for value in (before, after))
    cost = screen.paint(f" ({path.cost})" if path.cost != "none" else "", "dim")
    if not path.shown[0]:
        return f"{clean(path.path)}: {after}{cost}"
    change = f"{screen.paint(before, 'red')} {screen.sign('→', '->')} {screen.paint(after, 'green')}"
    return f"{clean(path.path)}: {change}{cost}"


def _quoted(values: tuple[str, str]) -> tuple[str, str]:
    """Both values, in quotes if one of them begins or ends with a blank."""
    before, after = values
    return values if all(value == value.strip(" ") for value in values) else (f'"{before}"', f'"{after}"')


def _visible(text: str) -> str:
    """The text on one line, with escapes for all characters that cannot be seen, such as U+00A0."""
    text = clean(text)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _excerpts(values: tuple[str, str]) -> tuple[str, str]:
    """Both values if they are short; otherwise the part in which they differ, with … for the rest."""
    before, after = values
    longest = max(len(before), len(after))
    if longest <= _LONGEST:
        return values
    start = _common(before, after)
    same = _common(before[start:][::-1], after[start:][::-1])
    first, rest = max(0, start - _AROUND), max(0, same - _AROUND)
    return _excerpt(before, first, len(before) - rest), _excerpt(after, first, len(after) - rest)


def _common(one: str, other: str) -> int:
    """The length of the longest common beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _excerpt(value: str, start: int, stop: int) -> str:
    piece = value[start:stop]
    if len(piece) > _LONGEST:
        piece = f"{piece[: _LONGEST // 2]} … {piece[-_LONGEST // 2 :]}"
    return ("… " if start else "") + piece + (" …" if stop < len(value) else "")


def left_over(plan: Plan, screen: Screen) -> str:
    """The changes that a plan right after the apply still has."""
    lines = ["the state of the kernel still differs from the manifest after the apply:"]
    lines += [_change(change, screen, False) for change in plan.objects or plan.changes]
    return "\n".join(lines)
