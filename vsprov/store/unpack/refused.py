"""How an archive can be turned down."""

from __future__ import annotations


class Refused(Exception):
    """The archive is one that no image may come from."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NeedsBelow(Exception):
    """The archive is a layer that says something about the layers below it, and they are not known."""
