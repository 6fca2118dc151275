"""Small JSON files with a checksum, which shows truncation, manual changes, and newer formats."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from vsprov.errors import reason

FORMAT = 1
_HEAD = b'{"format":%d,"sha256":"%s","content":'
_TAIL = b"}\n"
_PART = 64 << 10
_LIMIT = 16 << 20


def seal(content: dict[str, Any]) -> bytes:
    """One line of JSON: the format, the checksum of the serialized content, the content."""
    body = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return _HEAD % (FORMAT, hashlib.sha256(body).hexdigest().encode()) + body + _TAIL


def unseal(data: bytes) -> dict[str, Any]:
    """The content that was passed to `seal`. Raises ValueError with the problem in a few words."""
    head, found, rest = data.partition(b'"content":')
    body = rest.removesuffix(_TAIL)
    if rest.endswith(_TAIL) and head + found == _HEAD % (FORMAT, hashlib.sha256(body).hexdigest().encode()):
        content = json.loads(body)
        if isinstance(content, dict):
            return content
    raise ValueError(_problem(data))


def _problem(data: bytes) -> str:
    if not data:
        return "is empty"
    try:
        outer = json.loads(data)
    except (ValueError, RecursionError):
        return "is truncated"
    version = outer.get("format") if isinstance(outer, dict) else None
    if isinstance(version, int) and version > FORMAT:
        return f"was written by a newer vsprov (format {version}, this one reads {FORMAT})"
    return "was modified by something other than vsprov"


def read(path: str) -> tuple[dict[str, Any] | None, str]:
    """(content, "") of a sealed file, or (None, problem)."""
    try:
        # A FIFO in place of the file must not block, and a symbolic link is not followed.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = part = os.read(fd, _PART)
            while len(part) == _PART and len(data) < _LIMIT:
                part = os.read(fd, _PART)
                data += part
        finally:
            os.close(fd)
        return unseal(data), ""
    except OSError as error:
        return None, f"{os.path.basename(path)}: {reason(error)}"
    except ValueError as error:
        return None, f"{os.path.basename(path)} {error}"
