"""The forms of a SHA-256 digest: 64 hex digits in the store and its records, one of these two elsewhere."""

from __future__ import annotations

PREFIX = "sha256:"


def full(digest: str) -> str:
    """`sha256:` and the 64 hex digits, for JSON, YAML and error messages; "" for ""."""
    return PREFIX + hex_digits(digest) if digest else ""


def short(digest: str) -> str:
    """The first 12 hex digits, for tables and the text of plans; "" for ""."""
    return hex_digits(digest)[:12]


def hex_digits(digest: str) -> str:
    """The digest without its prefix, as it may be part of a file name in the store."""
    return digest.removeprefix(PREFIX)
