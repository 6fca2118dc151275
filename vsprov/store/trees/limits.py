"""Limits on the contents of an image, against archives that would fill the disk."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True):
    entries: int = 1_000_000
    bytes: int = 64 << 30
    depth: int = 256  # of nested directories
    path: int = 4095  # bytes; path_resolution(7)


LIMITS = Limits()
MOST_LAYERS = 500  # that overlay can mount: OVL_MAX_STACK in fs/overlayfs/params.h
MAX_ID = 65535  # the highest id in a server
