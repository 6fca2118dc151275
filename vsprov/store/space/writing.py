"""Filling the file system of an image, so that nothing is missing in its file."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from vsprov.errors import FailedError, reason
from vsprov.kernel.storage import ext4
from vsprov.store.disk import durable
from vsprov.store.space import image_state


@contextmanager
def written(folder: str, mounted: int) -> Iterator[None]:
    """What the block writes to the mounted image of a directory is in its file at the end.

    FailedError if it is not: what is in memory may not fit on the disk of the host.
    """
    path = image_state.path(folder)
    try:
        with ext4.flushed(mounted):
            yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise durable.failed(path, "write its files", error) from error
        hint = "the file system of the state root is full, or its disk is damaged"  # the device tells no more
        raise FailedError(f"{path}: write its files: {reason(error)}", hint=hint) from error
