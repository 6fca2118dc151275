"""Exceptions for archives that are refused."""

from __future__ import annotations


class Refused(Exception):
    """The archive is not valid or not allowed."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NeedsBelow(Exception):
    """The archive is a layer that refers to the layers below it, which are not known."""
