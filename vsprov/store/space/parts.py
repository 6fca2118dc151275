"""upper/ and work/: the directories that a server's overlay writes to, wherever they are."""

from __future__ import annotations

import os

MODES = {"upper": 0o755, "work": 0o700}


def make_part(folder: str, name: str, base: int) -> None:
    """Create upper/ or work/ in a directory, for a server with ids from `base` on."""
    path = f"{folder}/{name}"
    os.mkdir(path, MODES[name])
    os.chmod(path, MODES[name])  # whatever the umask
    os.chown(path, base, base)
