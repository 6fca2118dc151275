"""Paths that an object may name."""

from __future__ import annotations

import posixpath

from vsprov.manifest.problems import quoted

# File systems of the guest itself: a mount over them could weaken its confinement.
KERNEL_DIRECTORIES = ("/proc", "/sys", "/dev")
SHARED_MEMORY = "/dev/shm"


def wrong_path(path: str, *, root: str = "the root directory is not allowed here") -> str:
    """Why the path is not allowed, or "". `root` is the error for `/`."""
    if path == "/":
        return root
    if ".." in path.split("/"):
        return f"{quoted(path)} contains '..'"
    plain = posixpath.normpath(path).replace("//", "/")
    return f"{quoted(path)} is not normalized; write {plain}" if path != plain else ""


def is_below(path: str, directory: str) -> bool:
    """Whether the path is the directory or below it."""
    return path == directory or path.startswith(f"{directory}/")
