"""The ID that a server sees in /etc/machine-id: random, and the same at every start; machine-id(5).

It is a mark of the server's directory, which costs no inode, and mounted read-only over the file of the
image: servers of one image would otherwise share its ID, or have none.
"""

from __future__ import annotations

import re

from vsprov.store.disk import marks

TARGET = "/etc/machine-id"
_MARK = "machine-id"
_ID = re.compile(r"[0-9a-f]{32}")


def provide(directory: str) -> str:
    """The ID of the server with this directory; it is given one at its first start."""
    found = find(directory)
    if not found:
        import uuid  # loads what it may ask for the address of a network card

        found = uuid.uuid4().hex
        write(directory, found)
    return found


def find(directory: str) -> str:
    """The ID of the server with this directory; "" if it has none yet."""
    found = marks.find_mark(directory, _MARK)
    return found if found is not None and _ID.fullmatch(found) else ""


def write(directory: str, number: str) -> None:
    """Give the server with this directory an ID."""
    marks.write_mark(directory, _MARK, number)
