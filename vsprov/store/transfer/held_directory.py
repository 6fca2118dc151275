"""Directories for what is being exported or imported, which takes long: nobody waits for it.

<root>/transfers/.making-<pid>      locked by the process that uses it: see `folders.hold`
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vsprov.store.disk import durable, folders
from vsprov.store.instance import Instance

_serial = itertools.count()


@contextmanager
def held_directory(instance: Instance) -> Iterator[str]:
    """A new directory, which is removed at the end. The caller holds the lock of the instance when the block
    begins, and may release it then.
    """
    folders.prepare(instance, also=(instance.transfers,))
    path = f"{instance.transfers}/{durable.MAKING}{os.getpid()}-{next(_serial)}"
    try:
        durable.remove_tree(path)
        os.mkdir(path, 0o700)
        held = folders.hold(path)
    except OSError as error:
        raise durable.failed(path, "make", error) from error
    try:
        yield path
    finally:
        try:
            durable.remove_tree(path)
        finally:
            os.close(held)
            with suppress(OSError):  # others use it
                os.rmdir(instance.transfers)
