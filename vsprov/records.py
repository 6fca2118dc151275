"""Copies of immutable objects with other values."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from msgspec import Struct, structs

T = TypeVar("T")


def replace(record: T, /, **changes: Any) -> T:
    """A copy of a Struct or a dataclass with other values for some fields; copy.replace() of Python 3.13."""
    if isinstance(record, Struct):
        return structs.replace(record, **changes)
    return dataclasses.replace(record, **changes)  # type: ignore[type-var]
