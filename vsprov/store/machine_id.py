"""The ID that a server sees in /etc/machine-id: random, and the same at every start; machine-id(5).

It is a mark of the server's directory, which costs no inode, and mounted read-only over the file of the
image: servers of one image would otherwise share its ID, or have none.
"""

from __future__ import annotations

import re
import uuid

from vsprov.store.disk import marks

TARGET = "/etc/machine-id"
_MARK = "machine-id"
_ID = re.compile(r"[0-9a-f]{32}")


def provide(directory: str) -> str:
    """The ID of the server with this directory; it is given one at its first start."""
    found = marks.find_mark(directory, _MARK)
    if found is None or not _ID.fullmatch(found):
        found = uuid.uuid4().hex
        marks.write_mark(directory, _MARK, found)
    return found
