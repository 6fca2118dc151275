"""Server directories: the state of servers on disk, which survives a reboot.

    <root>/servers/<name>/           owner mark; root 0700
        server.json                  the spec as last applied, sealed
        upper/                       what the server has written; owned by its id range
        work/                        for overlay; its owner records the id range
        console.log                  created when the server starts

The id range is read from the owner of work/, since upper/ is the server's "/", which its root may chown.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vsprov.errors import ConflictError, FailedError, reason
from vsprov.store.disk import durable, folders, marks, sealed
from vsprov.store.disk.folders import sweep as sweep
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import RANGE, RANGES_PER_SLOT, Instance

SUBUID = "/etc/subuid"
SUBGID = "/etc/subgid"
SUBUID_USER = "vsprov"


@dataclass(frozen=True, slots=True)
class ServerDirectory:
    """The state of a server on disk.

    `owner` is None for a directory (or a file) that vsprov did not create. `id_base` is the first host id of
    the server's range of 65536, 0 if unknown. `applied` is what was last passed to `make` or `write_applied`,
    None if it is not readable. `problem` describes any damage; "" if there is none.
    """

    name: str
    path: str
    owner: Owner | None
    id_base: int
    applied: dict[str, Any] | None
    problem: str


def observe(instance: Instance, without: Container[str] = ()) -> dict[str, ServerDirectory]:
    """{name: directory} of all servers except those in `without`. Damage is reported in `problem`."""
    names = (name for name in folders.names(instance.servers) if name not in without)
    return {name: _observe(name, f"{instance.servers}/{name}") for name in names}


def find(instance: Instance, name: str) -> ServerDirectory | None:
    """The directory of one server; None if it has none."""
    path = f"{instance.servers}/{name}"
    return _observe(name, path) if os.path.lexists(path) else None


def _observe(name: str, path: str) -> ServerDirectory:
    problems = []
    owner, id_base = None, 0
    try:
        owner = marks.read_owner(path)
        id_base = os.lstat(f"{path}/work").st_uid
    except OSError as error:
        problems.append(f"work/: {reason(error)}")
    try:
        os.lstat(f"{path}/upper/")
    except OSError as error:
        problems.append(f"upper/: {reason(error)}")
    applied, problem = sealed.read(f"{path}/server.json")
    if problem:
        problems.append(problem)
    return ServerDirectory(name, path, owner, id_base, applied, "; ".join(problems))


def make(instance: Instance, name: str, owner: Owner, id_base: int, applied: dict[str, Any]) -> None:
    """Create the directory of a server, atomically. ConflictError if the path exists.

    It is safe from power failure only after `flush`: one wait for many servers.
    """
    path = folders.place(instance.servers, name)
    making = f"{instance.servers}/{durable.MAKING}{name}"
    try:
        try:
            os.mkdir(making, 0o700)
        except FileNotFoundError:
            folders.prepare(instance)
            os.mkdir(making, 0o700)
        except FileExistsError:
            durable.remove_tree(making)
            os.mkdir(making, 0o700)
        try:
            marks.write_owner(making, owner)
            _make_disk(making, id_base)
            durable.write_file(f"{making}/server.json", sealed.seal(applied), flush=False)
            durable.rename_new(making, path)
        except BaseException:
            durable.remove_tree(making)
            raise
    except FileExistsError as error:
        raise ConflictError(f"Server/{name}: make {path}: something else already exists there") from error
    except OSError as error:
        raise durable.failed(path, "make", error) from error


def _make_disk(folder: str, id_base: int) -> None:
    for name, mode in (("upper", 0o755), ("work", 0o700)):
        os.mkdir(f"{folder}/{name}", mode)
        os.chmod(f"{folder}/{name}", mode)  # whatever the umask
        os.chown(f"{folder}/{name}", id_base, id_base)


def flush(instance: Instance) -> None:
    """Write what `make` and `write_applied(…, flush=False)` have written to disk, safe from power failure."""
    if os.path.isdir(instance.servers):
        durable.flush_all(instance.servers)


def write_applied(instance: Instance, name: str, applied: dict[str, Any], *, flush: bool = True) -> None:
    """Record what was applied; without `flush` it is safe from power failure only after `flush()`."""
    path = _ours(instance, name)
    durable.write_file(f"{path}/server.json", sealed.seal(applied), flush=flush)


def discard_upper(instance: Instance, name: str) -> None:
    """Replace upper/ and work/ of a stopped server by empty ones; each exists at any moment."""
    path = _ours(instance, name)
    durable.refuse_mounts(path)
    making = f"{instance.servers}/{durable.MAKING}{name}"
    try:
        id_base = os.lstat(f"{path}/work").st_uid
        durable.remove_tree(making)
        os.mkdir(making, 0o700)
        _make_disk(making, id_base)
        for part in ("upper", "work"):
            try:
                durable.exchange(f"{making}/{part}", f"{path}/{part}")
            except FileNotFoundError:
                durable.rename_new(f"{making}/{part}", f"{path}/{part}")
    except OSError as error:
        raise durable.failed(path, "discard what the server has written", error) from error
    durable.remove_unmounted(making)


def remove(instance: Instance, name: str) -> None:
    """Remove the directory of a server with all that it has written, if it exists."""
    if not os.path.lexists(folders.place(instance.servers, name)):
        return
    path = _ours(instance, name)
    durable.refuse_mounts(path)
    try:
        aside = durable.set_aside(path)
    except OSError as error:
        raise durable.failed(path, "remove", error) from error
    if aside is not None:
        durable.remove_unmounted(aside)


def _ours(instance: Instance, name: str) -> str:
    """The path of a server that this instance owns. ConflictError if it belongs to another owner."""
    path = folders.place(instance.servers, name)
    try:
        owner = marks.read_owner(path)
    except OSError as error:
        raise durable.failed(path, "read its owner mark", error) from error
    if owner is None or owner.instance != instance.name:
        whose = f"belongs to {owner}" if owner else "has no owner mark"
        raise ConflictError(
            f"Server/{name}: {path} {whose}: left untouched", hint="move it away, or rename the server"
        )
    return path


def id_base(instance: Instance, name: str) -> int:
    """The first host id in the range of a server."""
    path = f"{folders.place(instance.servers, name)}/work"
    try:
        return os.lstat(path).st_uid
    except OSError as error:
        raise durable.failed(path, "read the id range", error) from error


def free_ranges(instance: Instance, taken: Iterable[int]) -> Iterator[int]:
    """The first ids of free ranges of 65536, lowest first. None overlaps `taken` or other users' subids.

    They come from the entries of user vsprov in /etc/subuid if there are any, otherwise from
    `instance.first_range` on. Raises FailedError when no range is left. subuid(5).
    """
    own, foreign = _subordinate()
    spans = own or [(instance.first_range, RANGES_PER_SLOT * RANGE)]
    busy = [*foreign, *((base, RANGE) for base in taken)]
    for start, count in spans:
        places = count // RANGE
        used: set[int] = set()
        for base, size in busy:
            if size > 0 and base + size > start:
                first = max(base - start, 0) // RANGE
                used.update(range(first, min((base + size - 1 - start) // RANGE + 1, places)))
        yield from (start + number * RANGE for number in range(places) if number not in used)
    where = SUBUID if own else f"ids {spans[0][0]} to {spans[0][0] + spans[0][1] - 1}"
    raise FailedError(
        f"{where}: allocate {RANGE} ids: no free range left",
        hint=f"give user {SUBUID_USER} more ids in {SUBUID}, or remove servers",
    )


def tidy(instance: Instance) -> None:
    """Remove the directories of the state root, and the root itself, if they are empty."""
    for folder in (*instance.folders, instance.root):
        try:
            os.rmdir(folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY):
                raise durable.failed(folder, "remove", error) from error


def _subordinate() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(first id, count) of the entries for vsprov in /etc/subuid, and of all others in either file."""
    own, foreign = [], []
    for path in (SUBUID, SUBGID):
        for user, start, count in _lines(path):
            if user != SUBUID_USER:
                foreign.append((start, count))
            elif path == SUBUID:
                own.append((start, count))
    return own, foreign


def _lines(path: str) -> Iterator[tuple[str, int, int]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return  # most hosts have no such file, and no subordinate ids
    for line in lines:
        user, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        if start.isascii() and start.isdigit() and count.isascii() and count.isdigit():
            yield user, int(start), int(count)
