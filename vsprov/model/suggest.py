"""Words that a misspelled word may stand for."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest
from operator import eq

from vsprov.errors import FailedError


def closest(word: str, choices: Iterable[str]) -> str:
    """The choice most similar to the word, without regard to case and underscores; "" if none is similar."""
    from difflib import get_close_matches

    by_lower = {choice.lower().replace("_", ""): choice for choice in choices}
    word = word[:80].lower().replace("_", "")

    def distance(choice: str) -> tuple[int, str]:
        same = sum(map(eq, word, choice)) + sum(map(eq, reversed(word), reversed(choice)))
        return len(choice) - same, choice

    # The real comparison is slow: only choices that begin and end like the word are worth it.
    alike = nsmallest(50, (choice for choice in by_lower if abs(len(choice) - len(word)) <= 3), key=distance)
    close = get_close_matches(word, alike, n=1, cutoff=0.66)
    return by_lower[close[0]] if close else ""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'limit'?`, to append to a message; "" if no choice is similar."""
    close = closest(word, choices)
    return f"; did you mean '{close}'?" if close else ""


def not_found(kind: str, name: str, known: Iterable[str]) -> FailedError:
    """The error for the name of an object that does not exist; `known` are those that do."""
    close = closest(name, known)
    hint = f"did you mean {close}?" if close else f"vsprov get {kind.lower()}s lists them"
    return FailedError(f"{kind}/{name}: not found", hint=hint)
