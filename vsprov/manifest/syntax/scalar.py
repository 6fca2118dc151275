"""Unquoted YAML scalars: the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema).

`no`, `on`, `22:22`, `1_000` and `2026-01-01` are strings. Unlike the schema, this module refuses numbers with
a leading zero, because `0755` is octal in YAML 1.1 and 755 in YAML 1.2, and numbers that are not finite.
"""

from __future__ import annotations

import math
import re
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | None

MAX_NUMBER = 3500
"""Maximum length of a number. Python refuses to print more than 4300 decimal digits."""


class ScalarError(ValueError):
    """A plain scalar that is refused."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def plain(text: str) -> Scalar:
    """The value of a plain (unquoted) scalar. Raises ScalarError for a number that is refused."""
    if text in _WORDS:
        return _WORDS[text]
    return _number(text) if text[0] in "+-.0123456789" else text


_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def _number(text: str) -> int | float | str:
    if _LEADING_ZERO.fullmatch(text):
        digits = text.lstrip("0") or "0"
        octal = f", or write 0o{digits} for an octal number" if _OCTAL.fullmatch(f"0o{digits}"[:20]) else ""
        raise ScalarError(f"{short(text)} has a leading zero", f"quote it to make it a string{octal}")
    if _DECIMAL.fullmatch(text):
        return int(_bounded(text))
    if _OCTAL.fullmatch(text):
        return int(_bounded(text)[2:], 8)
    if _HEXADECIMAL.fullmatch(text):
        return int(_bounded(text)[2:], 16)
    if _FLOAT.fullmatch(text) and math.isfinite(value := float(_bounded(text))):
        return value
    if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        raise ScalarError(
            f"{short(text)} is not a finite number", "write max for no limit, or quote it to make it a string"
        )
    return text


def _bounded(text: str) -> str:
    if len(text) > MAX_NUMBER:
        raise ScalarError(f"number too long: {len(text)} characters", "quote it to make it a string")
    return text


def short(text: str) -> str:
    """The text in quotes, shortened to fit in a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
