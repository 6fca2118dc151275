"""Snapshots of servers: what they had written at one moment.

    servers/<server>/snapshots/<name>/
        upper/                  an exact copy of the server's upper layer
        volumes/<volume>/       exact copies of the volumes that it could write to
        snapshot.json           when it was made, of which image and id range, its size; sealed

A snapshot has its name when it is complete and on the disk. It belongs to the directory of its server: it is
renamed and removed with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from vsprov.errors import FailedError
from vsprov.store import servers
from vsprov.store.disk import durable, folders, sealed
from vsprov.store.instance import Instance
from vsprov.store.space import disks
from vsprov.store.volumes import changes, directory

if TYPE_CHECKING:
    from vsprov.store.written.replica import Size

FOLDER_NAME = folders.SNAPSHOTS
_RECORD = "snapshot.json"
_NAMES = ("server", "name", "problem")  # that the record does not contain


class Snapshot(Struct, frozen=True):
    """A snapshot; `created` is in Unix time, `image` the digest of the server's image then, `id_base` the
    first id of the server. `volumes` are the names that its volumes had, with the times at which they were
    created. `bytes` are those on disk, with blocks that are shared with the server or with other snapshots.
    `scheduled`: it was made by the schedule of the server, and is removed when it is not kept any more.
    `problem` describes any damage, and then only the names are known.
    """

    server: str
    name: str
    created: float = 0.0
    image: str = ""
    id_base: int = 0
    files: int = 0
    bytes: int = 0
    volumes: Mapping[str, float] = field(default_factory=dict)
    scheduled: bool = False
    problem: str = ""

    @property
    def trees(self) -> tuple[str, ...]:
        """The directories with its files, in its own."""
        return "upper", *map(volume_tree, self.volumes)


def volume_tree(volume: str) -> str:
    """The directory with the files of a volume, in that of a snapshot."""
    return f"volumes/{volume}"


def _folder(instance: Instance, server: str) -> str:
    return f"{folders.place(instance.servers, server)}/{FOLDER_NAME}"


def observe(instance: Instance, server: str) -> list[Snapshot]:
    """The snapshots of a server, the oldest first. Damage is reported in `problem`."""
    found = [
        _observe(server, name, f"{_folder(instance, server)}/{name}")
        for name in folders.names(_folder(instance, server))
    ]
    return sorted(found, key=lambda one: (one.created, one.name))


def _observe(server: str, name: str, path: str) -> Snapshot:
    content, problem = sealed.read(f"{path}/{_RECORD}")
    if content is None:
        return Snapshot(server, name, problem=problem)
    try:
        found = Snapshot(server, name, **content)
    except TypeError:
        return Snapshot(server, name, problem=f"{_RECORD} is not the record of a snapshot")
    missing = [tree for tree in found.trees if not os.path.isdir(f"{path}/{tree}")]
    return Snapshot(server, name, problem=f"{missing[0]}/ is missing") if missing else found


def unknown(server: str, name: str, known: Iterable[str]) -> FailedError:
    """The error that a server has no snapshot of this name, with those that it has."""
    return FailedError(f"Server/{server}: no snapshot {name}: it has {', '.join(known) or 'none'}")


def find(instance: Instance, server: str, name: str) -> Snapshot:
    """One snapshot, which is not damaged. FailedError if there is none of this name."""
    found = {one.name: one for one in observe(instance, server)}
    if name not in found:
        raise unknown(server, name, found)
    if found[name].problem:
        raise FailedError(f"Server/{server}: snapshot {name}: {found[name].problem}")
    return found[name]


def images(instance: Instance, names: Iterable[str]) -> set[str] | None:
    """The digests of the images that the snapshots of these servers were made of; None if one is unknown."""
    used = set()
    for server in names:
        for one in observe(instance, server):
            if one.problem:
                return None
            used.add(one.image)
    return used


def size(instance: Instance, server: str) -> int:
    """The bytes of all snapshots of a server on disk."""
    return sum(one.bytes for one in observe(instance, server))


def create(
    instance: Instance,
    made: Snapshot,
    progress: Callable[[int], None],
    copied: Callable[[], None],
) -> Snapshot:
    """Make a snapshot of a server; it, with its size. Neither the server nor others that use its volumes run,
    or they are frozen.

    `copied` is called as soon as they may run again. When this returns, the snapshot is safe from power
    failure. FailedError if there is one of this name; nothing is left then, or if `progress` raises.
    """
    folder, label = _folder(instance, made.server), f"Server/{made.server}: snapshot {made.name}"
    path = folders.place(folder, made.name)
    making = f"{folder}/{durable.MAKING}{made.name}"
    if os.path.lexists(path):
        raise FailedError(f"{label}: exists", hint=f"vsprov snapshot rm {made.server} {made.name}")
    try:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        durable.remove_tree(making)
        os.mkdir(making, 0o700)
        try:
            files = _copy_trees(instance, made, making, label, progress)
            copied()
            made = replace(made, files=files.entries, bytes=files.bytes)
            _write_record(making, made)
            durable.flush_all(folder)
            durable.rename_new(making, path)
            durable.flush_folder(folder)
        except BaseException:
            durable.remove_tree(making)
            _tidy(folder)
            raise
    except OSError as error:
        raise durable.failed(path, "make", error) from error
    return made


def _copy_trees(
    instance: Instance, made: Snapshot, making: str, label: str, progress: Callable[[int], None]
) -> Size:
    """Copy what the server has written, and the files of the snapshot's volumes, into `making`."""
    from vsprov.store.written import replica

    with disks.upper(servers.path_of(instance, made.server), made.id_base) as upper:
        files = replica.copy(upper, f"{making}/upper", label, progress)
    if made.volumes:
        os.mkdir(f"{making}/volumes", 0o700)
    for volume in made.volumes:
        with directory.opened(instance, volume) as tree:
            files += replica.copy(
                tree,
                f"{making}/{volume_tree(volume)}",
                f"{label}: volume {volume}",
                replica.after(files, progress),
            )
    return files


def _write_record(path: str, made: Snapshot) -> None:
    record = {key: value for key, value in asdict(made).items() if key not in _NAMES}
    durable.write_file(f"{path}/{_RECORD}", sealed.seal(record), flush=False)


def add(folder: str, made: Snapshot, fill: Callable[[str], Size]) -> None:
    """Add a snapshot to the directory of a server that is being made; `fill` makes the trees in the directory
    that it is called with.
    """
    path = folders.place(f"{folder}/{FOLDER_NAME}", made.name)
    os.makedirs(path, 0o700)
    size = fill(path)
    _write_record(path, replace(made, files=size.entries, bytes=size.bytes))


def remove(instance: Instance, server: str, name: str) -> None:
    """Remove a snapshot, damaged or not. FailedError if there is none of this name."""
    servers.path_of(instance, server)
    folder = _folder(instance, server)
    try:
        aside = durable.set_aside(folders.place(folder, name))
    except OSError as error:
        raise durable.failed(f"{folder}/{name}", "remove", error) from error
    if aside is None:
        raise FailedError(f"Server/{server}: no snapshot {name}")
    durable.remove_tree(aside)
    _tidy(folder)


def path_of(instance: Instance, server: str, name: str) -> str:
    """The directory of a snapshot."""
    return folders.place(_folder(instance, server), name)


@contextmanager
def upper(instance: Instance, server: str, name: str, id_base: int) -> Iterator[str]:
    """The path of what a server had written in a snapshot, or for "" of what it has written."""
    if not name:
        with disks.upper(servers.path_of(instance, server), id_base) as path:
            yield path
    else:
        yield f"{path_of(instance, server, name)}/upper"


@contextmanager
def volume(instance: Instance, server: str, name: str, of: str) -> Iterator[str]:
    """The path, for this process, of the files of the volume `of` in a snapshot of a server, or for "" of
    those that it has now.
    """
    if not name:
        with directory.opened(instance, of) as path:
            yield path
    else:
        yield f"{path_of(instance, server, name)}/{volume_tree(of)}"


def _tidy(folder: str) -> None:
    with suppress(OSError):  # there are others
        os.rmdir(folder)


def prepare_restore(
    instance: Instance, server: str, name: str, id_base: int, progress: Callable[[int], None]
) -> None:
    """Copy the upper layer of a snapshot to where `servers.exchange_disk` takes it from, safe from power
    failure.
    """
    from vsprov.store.written import replica

    label = f"Server/{server}: snapshot {name}"

    def fill(path: str) -> None:
        with upper(instance, server, name, id_base) as tree:
            replica.copy(tree, f"{path}/upper", label, progress)

    servers.prepare_disk(instance, server, id_base, fill)


def prepare_volume(
    instance: Instance, server: str, name: str, of: str, to: str, progress: Callable[[int], None]
) -> None:
    """Copy the volume `of` of a snapshot to where the exchange of the volume `to` takes it from, safe from
    power failure.
    """
    from vsprov.store.written import replica

    label = f"Server/{server}: snapshot {name}: volume {of}"
    with volume(instance, server, name, of) as tree:
        changes.prepare(instance, to, lambda path: replica.copy(tree, path, label, progress))
