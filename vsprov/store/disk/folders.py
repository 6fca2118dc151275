"""The directories of the state root, and the removal of what a crash has left in them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from vsprov.errors import FailedError, NotPermittedError, reason
from vsprov.model.values.patterns import NAME_PATTERN
from vsprov.store.disk import durable
from vsprov.store.instance import Instance


def place(folder: str, name: str, suffix: str = "") -> str:
    """The path of the object `name` in `folder`.

    Raises FailedError for an invalid name, which could lead out of the directory.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise FailedError(f"{folder}: {name!r} is not a valid name")
    return f"{folder}/{name}{suffix}"


def prepare(instance: Instance, *, downloads: bool = False) -> None:
    """Create the state root and its directories where missing, accessible to root only.

    Images contain setuid programs: a user of the host who could reach them would run them as the host's root
    (CVE-2021-41091). The directory of downloads is created only with `downloads`.
    """
    try:
        os.makedirs(instance.root, mode=0o700, exist_ok=True)
        for folder in instance.folders if downloads else instance.folders[:-1]:
            try:
                os.mkdir(folder, 0o700)
            except FileExistsError:
                if os.lstat(folder).st_mode & 0o7777 != 0o700:
                    os.chmod(folder, 0o700)
    except OSError as error:
        raise durable.failed(str(error.filename), "create the state directories", error) from error


def names(folder: str) -> list[str]:
    """The names in a directory of the state root, sorted, without leftovers; [] if it does not exist."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith(durable.LEFTOVERS))
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise NotPermittedError(f"{folder}: list: {reason(error)}", hint="run as root") from error
    except OSError as error:
        raise durable.failed(folder, "list", error) from error


def _raise(error: FailedError) -> None:
    raise error


def sweep(instance: Instance, failed: Callable[[FailedError], None] = _raise) -> list[str]:
    """Remove what a crash has left incomplete; the paths removed.

    `failed` is called for what cannot be removed, and the sweep continues. The caller holds the apply lock.
    """
    found = []
    for folder in instance.folders:
        try:
            entries = os.listdir(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise durable.failed(folder, "list", error) from error
        for name in entries:
            path = f"{folder}/{name}"
            try:
                if name.startswith(durable.LEFTOVERS):
                    durable.remove_tree(path)
                    found.append(path)
                elif folder == instance.servers:
                    found += _sweep_server(path)
            except FailedError as error:
                failed(error)
    return sorted(found)


def _sweep_server(path: str) -> list[str]:
    leftover = durable.temporary(f"{path}/server.json")
    try:
        return [leftover] if durable.unlink(leftover) else []
    except NotADirectoryError:
        return []  # a file in the place of a server; the plan reports it
    except OSError as error:
        raise durable.failed(leftover, "remove", error) from error
