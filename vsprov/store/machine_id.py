"""The file that a server sees as /etc/machine-id: random, and the same at every start; machine-id(5).

It is in the server's directory, and mounted read-only over the file of the image: servers of one image would
otherwise share its ID, or have none.
"""

from __future__ import annotations

import os
import re
import uuid

from vsprov.store.disk import durable

NAME = "machine-id"
TARGET = "/etc/machine-id"
_ID = re.compile(rb"[0-9a-f]{32}\n")


def provide(path: str) -> None:
    """Make the file, unless it holds an ID already."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if _ID.fullmatch(os.read(fd, 64)):
                return
        finally:
            os.close(fd)
    except FileNotFoundError:
        pass
    durable.write_file(path, f"{uuid.uuid4().hex}\n".encode(), 0o444, flush=False)
