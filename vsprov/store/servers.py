"""Server directories: the state of servers on disk, which survives a reboot.

    <root>/servers/<name>/           owner mark, machine ID as a mark; root 0700
        server.json                  the spec as last applied and the id range, sealed
        upper/                       what the server has written; owned by its id range
        work/                        for overlay; owned by the first id of the range
        console                      the FIFO that the server writes its output to
        console.log                  what the keeper has copied from it
        hosts                        its /etc/hosts, created when it starts

The id range is the one in server.json. Version 0.1.0 did not record it: the owner of work/ was the record.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from vsprov.errors import ConflictError, FailedError, reason
from vsprov.plan.observed import Parts
from vsprov.plan.ranges import FIRST_ID, RANGE
from vsprov.store import claims
from vsprov.store.disk import durable, folders, marks, ownership, sealed
from vsprov.store.disk.folders import sweep as sweep
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import Instance

_RANGE = "idBase"  # in server.json, beside the keys of the spec as last applied


@dataclass(frozen=True, slots=True)
class ServerDirectory:
    """The state of a server on disk.

    `owner` is None for a directory (or a file) that vsprov did not create. `id_base` is the first host id of
    the server's range of 65536, 0 if unknown. `applied` is what was last passed to `make` or `write_applied`,
    None if it is not readable. `problem` describes any damage; "" if there is none. `roots` identify the
    directories that exist, by name, as `identity` does.
    """

    name: str
    path: str
    owner: Owner | None
    id_base: int
    applied: dict[str, Any] | None
    problem: str
    parts: Parts = Parts()
    roots: Mapping[str, str] = field(default_factory=dict)


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
    owner = None
    found: dict[str, os.stat_result] = {}
    with suppress(OSError):  # it was removed meanwhile; the directories in it are then missing as well
        owner = marks.read_owner(path)
    for part in ("work", "upper"):
        try:
            status = os.lstat(f"{path}/{part}")
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            found[part] = status
        except OSError as error:
            problems.append(f"{part}/: {reason(error)}")
    applied, problem = sealed.read(f"{path}/server.json")
    if problem:
        problems.append(problem)
    recorded = applied.pop(_RANGE, None) if applied else None
    parts = Parts(
        recorded if isinstance(recorded, int) else None,
        **{part: (status.st_uid, status.st_gid) for part, status in found.items()},
    )
    roots = {part: identity(status) for part, status in found.items()}
    return ServerDirectory(name, path, owner, _base(parts), applied, "; ".join(problems), parts, roots)


def _base(parts: Parts) -> int:
    """The first id of the range of a server: the recorded one, or that of the owner of its directories."""
    if parts.recorded is not None:
        return parts.recorded
    if parts.work is not None:
        return parts.work[0]
    if parts.upper is not None and parts.upper[0] >= FIRST_ID:  # the server's root may have chowned its "/"
        return FIRST_ID + (parts.upper[0] - FIRST_ID) // RANGE * RANGE
    return 0


def identity(status: os.stat_result) -> str:
    """A text that identifies a directory as long as anything has it mounted."""
    return f"{status.st_dev}:{status.st_ino}"


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
            _write_record(making, applied, id_base, flush=False)
            durable.rename_new(making, path)
        except BaseException:
            durable.remove_tree(making)
            raise
    except FileExistsError as error:
        raise ConflictError(f"Server/{name}: make {path}: something else already exists there") from error
    except OSError as error:
        raise durable.failed(path, "make", error) from error


def _make_disk(folder: str, id_base: int) -> None:
    for name in _MODES:
        _make_part(folder, name, id_base)


_MODES = {"upper": 0o755, "work": 0o700}


def _make_part(folder: str, name: str, id_base: int) -> None:
    os.mkdir(f"{folder}/{name}", _MODES[name])
    os.chmod(f"{folder}/{name}", _MODES[name])  # whatever the umask
    os.chown(f"{folder}/{name}", id_base, id_base)


def _write_record(path: str, applied: Mapping[str, Any], id_base: int, *, flush: bool) -> None:
    durable.write_file(f"{path}/server.json", sealed.seal({**applied, _RANGE: id_base}), flush=flush)


def flush(instance: Instance) -> None:
    """Write what `make` and `write_applied(…, flush=False)` have written to disk, safe from power failure."""
    if os.path.isdir(instance.servers):
        claims.flush()
        durable.flush_all(instance.servers)


def write_applied(instance: Instance, name: str, applied: dict[str, Any], *, flush: bool = True) -> None:
    """Record what was applied; without `flush` it is safe from power failure only after `flush()`."""
    path = _ours(instance, name)
    _write_record(path, applied, id_base(instance, name), flush=flush)


def repair(instance: Instance, name: str, id_base: int) -> None:
    """Create the parts of a server's directory that are missing, and record its id range.

    A record that is not readable is left alone. It is safe from power failure only after `flush`.
    """
    path = _ours(instance, name)
    found = _observe(name, path)
    try:
        for part in found.parts.missing():
            _make_part(path, part, id_base)
    except OSError as error:
        raise durable.failed(path, "create what is missing", error) from error
    if found.applied is not None and found.parts.recorded != id_base:
        _write_record(path, found.applied, id_base, flush=False)


def discard_upper(instance: Instance, name: str) -> None:
    """Replace upper/ and work/ of a stopped server by empty ones; each exists at any moment."""
    path = _ours(instance, name)
    durable.refuse_mounts(path)
    making = f"{instance.servers}/{durable.MAKING}{name}"
    try:
        base = id_base(instance, name)
        durable.remove_tree(making)
        os.mkdir(making, 0o700)
        _make_disk(making, base)
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
        ownership.refuse_foreign(path, instance.name, f"Server/{name}")
    except FileNotFoundError as error:
        raise durable.failed(path, "read its owner mark", error) from error
    return path


def id_base(instance: Instance, name: str) -> int:
    """The first host id in the range of a server."""
    found = _observe(name, folders.place(instance.servers, name))
    if not found.id_base:
        raise FailedError(f"{found.path}: read the id range: {found.problem}")
    return found.id_base


def tidy(instance: Instance) -> None:
    """Remove the directories of the state root, and the root itself, if they are empty."""
    for folder in (*instance.folders, os.path.realpath(instance.root)):
        try:
            os.rmdir(folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY, errno.ENOTDIR):
                raise durable.failed(folder, "remove", error) from error
    if not os.path.lexists(instance.servers):
        claims.release(instance)
