"""Server directories: the state of servers on disk, which survives a reboot.

    <root>/servers/<name>/           owner mark, machine ID as a mark; root 0700
        server.json                  the spec as last applied and the id range, sealed
        upper/                       what the server has written; owned by its id range
        work/                        for overlay; owned by the first id of the range
        disk.img, disk/              what the server has written, if its disk is limited by an image or by a
                                     subvolume: see vsprov/store/space/
        console                      the FIFO that the server writes its output to
        snapshots/                   see store/written/snapshots.py
        console.log, console.log.N   what the keeper has copied from it, see vsprov/keeper/subjects/log.py
        console.times.N              when lines of it were written
        hosts                        its /etc/hosts, created when it starts

The id range is the one in server.json. Version 0.1.0 did not record it: the owner of work/ was the record.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from vsprov.errors import ConflictError, FailedError, reason
from vsprov.plan.observed import Parts
from vsprov.plan.ranges import FIRST_ID, RANGE
from vsprov.store import claims
from vsprov.store.disk import durable, exchange, folders, marks, ownership, sealed
from vsprov.store.disk.exchange import Pair
from vsprov.store.disk.folders import sweep as sweep
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import Instance
from vsprov.store.space.disks import has_image, place
from vsprov.store.space.parts import MODES, make_part

if TYPE_CHECKING:
    from vsprov.store.space.filled import Limit

_RANGE = "idBase"  # in server.json, beside the keys of the spec as last applied
_STOPPED = "stopped"  # a mark: written without another file, and in the inode even if the disk is full


class ServerDirectory(Struct, frozen=True):
    """The state of a server on disk.

    `owner` is None for a directory (or a file) that vsprov did not create. `id_base` is the first host id of
    the server's range of 65536, 0 if unknown. `applied` is what was last passed to `make` or `write_applied`,
    None if it is not readable. `problem` describes any damage; "" if there is none. `roots` identify the
    directories that exist, by name, as `identity` does. `stopped` is what was last passed to `keep_stopped`.
    """

    name: str
    path: str
    owner: Owner | None
    id_base: int
    applied: dict[str, Any] | None
    problem: str
    parts: Parts = Parts()
    roots: Mapping[str, str] = field(default_factory=dict)
    stopped: str = ""


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
    owner, stopped = None, ""
    found: dict[str, os.stat_result] = {}
    with suppress(OSError):  # it was removed meanwhile; the directories in it are then missing as well
        owner = marks.read_owner(path)
        stopped = marks.read_mark(path, _STOPPED) or ""
    written = place(path)
    for part in ("work", "upper"):
        try:
            status = os.lstat(f"{written}/{part}")
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
    problem = "; ".join(problems)
    return ServerDirectory(name, path, owner, _base(parts), applied, problem, parts, roots, stopped)


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


def make(
    instance: Instance,
    name: str,
    owner: Owner,
    id_base: int,
    applied: dict[str, Any],
    fill: Callable[[str], None] | None = None,
) -> None:
    """Create the directory of a server, atomically. ConflictError if the path exists.

    `fill` makes what the server writes to in the directory that it is called with, as `filled.make` does;
    without it, that is empty and has no limit. It is safe from power failure only after `flush`: one wait for
    many servers.
    """
    path = folders.place(instance.servers, name)
    making = _making(instance, name)
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
            if fill is None:
                for part in MODES:
                    make_part(making, part, id_base)
            else:
                fill(making)
                durable.flush_all(making)  # a server without its files must never have its name
            _write_record(making, applied, id_base, flush=False)
            durable.rename_new(making, path)
        except BaseException:
            _forget(instance, making)
            raise
    except FileExistsError as error:
        raise ConflictError(f"Server/{name}: make {path}: something else already exists there") from error
    except OSError as error:
        raise durable.failed(path, "make", error) from error


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


def keep_stopped(instance: Instance, name: str, by: str) -> None:
    """Record who wants the server to stay stopped when the host starts; "" if nobody does.

    It is safe from power failure only after `flush_stopped`.
    """
    path = _ours(instance, name)
    if by:
        marks.write_mark(path, _STOPPED, by)
    else:
        marks.remove_mark(path, _STOPPED)


def flush_stopped(instance: Instance, names: Iterable[str]) -> None:
    """Write to disk what `keep_stopped` has recorded, without all else that the file system has to write."""
    for name in names:
        path = f"{instance.servers}/{name}"
        try:
            durable.flush_folder(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise durable.failed(path, "fsync", error) from error


def repair(instance: Instance, name: str, id_base: int) -> None:
    """Create the parts of a server's directory that are missing, and record its id range.

    A record that is not readable is left alone. It is safe from power failure only after `flush`.
    """
    path = _ours(instance, name)
    found = _observe(name, path)
    try:
        for part in found.parts.missing():
            make_part(place(path), part, id_base)
    except OSError as error:
        raise durable.failed(path, "create what is missing", error) from error
    if found.applied is not None and found.parts.recorded != id_base:
        _write_record(path, found.applied, id_base, flush=False)


def discard_upper(instance: Instance, name: str) -> None:
    """Replace upper/ and work/ of a stopped server by empty ones, or its image; each exists at any moment."""
    path = _ours(instance, name)
    if has_image(path):
        from vsprov.store.space import image

        image.remake(path)
        return
    durable.refuse_mounts(path)
    base = id_base(instance, name)
    prepare_disk(instance, name, base, lambda making: make_part(making, "upper", base), flush=False)
    exchange_disk(instance, name, flush=False)
    forget_disk(instance, name)


def prepare_disk(
    instance: Instance,
    name: str,
    base: int,
    fill: Callable[[str], None],
    limit: Limit | None = None,
    *,
    flush: bool = True,
) -> None:
    """Make what a server could write to, beside what it has: limited as that, or by `limit`; `flush`: safe
    from power failure.

    `fill` makes the upper/ in the directory that it is called with. A crash leaves what `sweep` removes.
    """
    from vsprov.store.space import filled

    path, making = _ours(instance, name), _making(instance, name)
    try:
        durable.remove_tree(making)
        os.mkdir(making, 0o700)
        try:
            filled.make(making, base, fill, limit or filled.limit_of(path))
            if flush:
                durable.flush_all(making)
        except BaseException:
            forget_disk(instance, name)
            raise
    except OSError as error:
        raise durable.failed(making, "make", error) from error


def exchange_disk(instance: Instance, name: str, also: Iterable[Pair] = (), *, flush: bool = True) -> None:
    """Exchange what a stopped server has written with what `prepare_disk` has made, if it has, and the paths
    of `also`; it has the one or the other at any moment.

    Doing it again brings them back. With `flush`, all or none are exchanged, even after a power failure.
    """
    from vsprov.store.space import filled

    path, making = _ours(instance, name), _making(instance, name)
    durable.refuse_mounts(path)
    pairs = filled.pairs(path, making) if os.path.lexists(making) else []
    if flush:
        exchange.exchange(instance.root, (*pairs, *also))
        return
    try:
        for pair in pairs:
            exchange.exchange_one(pair)
    except OSError as error:
        raise durable.failed(path, "exchange what the server has written", error) from error


def forget_disk(instance: Instance, name: str) -> None:
    """Remove what `prepare_disk` has made, or what was exchanged for it, with its limit."""
    from vsprov.store.space import project

    path = f"{instance.servers}/{name}"
    _forget(instance, _making(instance, name), keep=project.find(path))


def _forget(instance: Instance, making: str, keep: int = 0) -> None:
    """Remove a directory of a server that is not in its place, and its quota, unless that is `keep`."""
    from vsprov.store.space import project

    quota = project.find(making)
    if has_image(making):
        from vsprov.store.space import image

        image.wait_until_detached(making)
    durable.remove_tree(making)
    if quota != keep:
        project.release_own(instance.servers, quota)


def path_of(instance: Instance, name: str) -> str:
    """The directory of a server of this instance. FailedError if it has none, or if it is not ours."""
    return _ours(instance, name)


def _making(instance: Instance, name: str) -> str:
    return f"{instance.servers}/{durable.MAKING}{name}"


def rename(instance: Instance, old: str, new: str) -> None:
    """Give the directory of a stopped server another name, atomically, and safe from power failure.

    ConflictError if something else has that name.
    """
    path = _ours(instance, old)
    durable.refuse_mounts(path)
    folders.rename(path, new, "Server")


def remove(instance: Instance, name: str) -> None:
    """Remove the directory of a server with all that it has written, if it exists."""
    aside = set_aside(instance, name)
    if aside is not None:
        durable.remove_unmounted(aside)


def set_aside(instance: Instance, name: str) -> str | None:
    """Rename the directory of a server for `durable.remove_unmounted`; its new path, None without one."""
    if not os.path.lexists(folders.place(instance.servers, name)):
        return None
    path = _ours(instance, name)
    durable.refuse_mounts(path)
    try:
        return durable.set_aside(path)
    except OSError as error:
        raise durable.failed(path, "remove", error) from error


def _ours(instance: Instance, name: str) -> str:
    """The path of a server that this instance owns. ConflictError if it belongs to another owner."""
    return ownership.owned(folders.place(instance.servers, name), instance.name, f"Server/{name}")


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
