"""How much a run tries. With VSPROV_LONG=1, as in `make test-long`, it tries all that is worth it once a day;
otherwise a part of it, so that it ends within minutes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Hashable, Iterable
from typing import Any, TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")

LONG = os.environ.get("VSPROV_LONG", "") not in ("", "0")
EXAMPLES = 40  # of a property, unless its test asks for another number
TIMES = 20  # how many times as many a long run tries


def examples(usual: int = EXAMPLES) -> settings:
    """Settings of a property: how many examples a usual run tries. No example is too slow."""
    return settings(max_examples=usual * TIMES if LONG else usual, deadline=None)


def worth_trying(steps: Iterable[Hashable], only: Container[Hashable] | None = None) -> list[int]:
    """The numbers, from 1, of the steps at which to break off: the first of each sort, and the last.

    With `only`, other sorts are not tried. In a long run they are all of them.
    """
    named = list(steps)
    if LONG:
        return list(range(1, len(named) + 1))
    first = {
        name: number for number, name in reversed(list(enumerate(named, 1))) if only is None or name in only
    }
    return sorted({*first.values(), len(named)})


def emulated(values: Iterable[T], chosen: Collection[T]) -> list[Any]:
    """Parameters of a test; only those that are chosen are tried in the emulated machine too."""
    listed = list(values)
    unknown = set(chosen) - set(listed)
    assert not unknown, f"these are not parameters of the test: {unknown}"
    return [pytest.param(one, marks=pytest.mark.vm_subset if one in chosen else ()) for one in listed]
