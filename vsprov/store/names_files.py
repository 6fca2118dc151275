"""The files of a server with interfaces that hold names: /etc/hosts, /etc/resolv.conf and /etc/hostname.

Servers without interfaces have only the first: each new file costs time at every start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from vsprov.store import hosts_file, managed_file

RESOLV_CONF, HOSTNAME = "resolv.conf", "hostname"
TARGETS = {name: f"/etc/{name}" for name in (hosts_file.NAME, RESOLV_CONF, HOSTNAME)}


def read(directory: str) -> dict[str, str]:
    """{file: its managed part} of the files in the directory of a server that can be read."""
    found = {}
    for name in TARGETS:
        with suppress(
            OSError
        ):  # of another type, or leased by the server: not known, so that it is left alone
            text = managed_file.read(f"{directory}/{name}")
            if text is not None:
                found[name] = text if name == HOSTNAME else managed_file.managed(text)
    return found


def are_complete(directory: str) -> bool:
    """Whether all files exist: the server was started with interfaces."""
    return all(os.path.lexists(f"{directory}/{name}") for name in TARGETS)


def write(directory: str, name: str, part: str, hostname: str, owner: int | None = None) -> None:
    """Replace the managed part of a file; with an owner it is created if absent, and given to that id."""
    path = f"{directory}/{name}"
    if name == hosts_file.NAME:
        hosts_file.update(path, hostname, owner, part)
    elif name == HOSTNAME:
        managed_file.rewrite(path, lambda text: part, owner)
    else:
        managed_file.rewrite(path, lambda text: managed_file.with_managed(text, part), owner)


def add(directory: str, owner: int, mount: Callable[[str, str], None]) -> None:
    """Create the files that a server without interfaces has not, and `mount` each at its target.

    A file gets its name only then, so that `are_complete` does not count one that no server sees.
    """
    for name in (RESOLV_CONF, HOSTNAME):
        path = f"{directory}/{name}"
        if not os.path.lexists(path):
            managed_file.rewrite(f"{path}.new", lambda text: "", owner)
            mount(f"{path}.new", TARGETS[name])
            os.rename(f"{path}.new", path)


def prepare(directory: str, hostname: str, owner: int, *, interfaces: bool) -> tuple[str, ...]:
    """The files to mount when the server starts. They exist then; others are removed."""
    hosts_file.update(f"{directory}/{hosts_file.NAME}", hostname, owner, None if interfaces else "")
    if not interfaces:
        for name in (RESOLV_CONF, HOSTNAME):
            with suppress(FileNotFoundError):
                os.unlink(f"{directory}/{name}")
        return (hosts_file.NAME,)
    managed_file.rewrite(f"{directory}/{RESOLV_CONF}", lambda text: text, owner)
    write(directory, HOSTNAME, f"{hostname}\n", hostname, owner)
    return tuple(TARGETS)
