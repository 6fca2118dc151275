"""The ID that a server sees in /etc/machine-id: random, and the same at every start; machine-id(5).

It is in the server's record, and mounted read-only over the file of the image: servers of one image would
otherwise share its ID, or have none.
"""

from __future__ import annotations

import re
import uuid

TARGET = "/etc/machine-id"
_ID = re.compile(r"[0-9a-f]{32}")


def new() -> str:
    """An ID that no other server has: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def is_valid(found: object) -> bool:
    """Whether this is such an ID."""
    return isinstance(found, str) and bool(_ID.fullmatch(found))
