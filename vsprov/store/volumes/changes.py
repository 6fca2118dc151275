"""Creating, changing, renaming and removing volumes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from vsprov.errors import ConflictError, FailedError
from vsprov.model.disk_backends import IMAGE
from vsprov.plan.volumes.state import UNLIMITED, Space
from vsprov.store.disk import durable, folders, marks, ownership, sealed
from vsprov.store.disk.exchange import Pair
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import DISK_IMAGE, Instance
from vsprov.store.space import disks
from vsprov.store.volumes import building, directory
from vsprov.store.volumes.building import CREATED, DATA, RECORD, Fill

MADE_FOR = "made-for"  # mark of a volume that is imported or cloned with a server: the name of that


def make(
    instance: Instance,
    name: str,
    owner: Owner,
    applied: Mapping[str, Any],
    fill: Fill | None,
    *,
    apart: bool = False,
    root_owner: str = "",
    root_mode: str = "",
    space: Space = UNLIMITED,
    made_for: str = "",
) -> None:
    """Create a volume, atomically and safe from power failure. ConflictError if the path exists.

    `fill` gets the path of the empty directory for its files, which belongs to root with mode 0755; None
    leaves it empty. `apart`: another process fills it. After that, `root_owner` ("0:0") and `root_mode`
    ("0755") are set, unless they are "". `space` limits it. `made_for` is the server that a volume is
    imported or cloned with: see `settle_new`.
    """
    path = folders.place(instance.volumes, name)
    making = _making(instance, name)
    if os.path.lexists(path):
        raise ConflictError(f"Volume/{name}: make {path}: something else already exists there")
    folders.prepare(instance, also=(instance.volumes,))

    def fill_root(top: str) -> None:
        """Another process fills a directory beside an image: the path of that is for this process alone."""
        if fill and apart and space.backend == IMAGE:
            staged = f"{making}/{DATA}"
            building.make_root(staged)
            fill(staged)
            _copy(staged, top, name, space, lambda size: None)
            durable.remove_tree(staged)
        elif fill:
            fill(top)
        if made_for:
            marks.write_mark(making, MADE_FOR, made_for)
        _set_root(top, root_owner, root_mode)

    try:
        with _cleared(instance, making):
            building.build(making, owner, applied, time.time(), space, fill_root)
            durable.rename_new(making, path)
        durable.flush_folder(instance.volumes)
    except FileExistsError as error:
        raise ConflictError(f"Volume/{name}: make {path}: something else already exists there") from error
    except OSError as error:
        raise durable.failed(path, "make", error) from error


def move(instance: Instance, name: str, space: Space, progress: Callable[[int], None]) -> None:
    """Copy a volume that no server has mounted to where `space` limits it, and remove it where it was; at any
    moment it is complete in one place. Safe from power failure.

    FailedError if it does not fit, or is in use; then nothing has changed.
    """
    path = _ours(instance, name)
    making, seen = _making(instance, name), directory.observed_at(name, path, disks.Disks())
    if seen.owner is None or seen.applied is None:
        raise FailedError(f"Volume/{name}: its record is lost or was edited")
    owner, record = seen.owner, seen.applied
    try:
        with directory.opened_at(path) as source, _cleared(instance, making):

            def fill(top: str) -> None:
                _copy(source, top, name, space, progress)

            building.build(making, owner, record, seen.created, space, fill)
        with _cleared(instance, making):
            building.wait_until_unused(path)
            durable.exchange(making, path)
            durable.flush_folder(instance.volumes)
            remove(instance, making)
    except OSError as error:
        raise durable.failed(path, "move it", error) from error


def _copy(source: str, top: str, name: str, space: Space, progress: Callable[[int], None]) -> None:
    from vsprov.store.written import replica

    try:
        replica.copy(source, top, f"Volume/{name}", progress)
    except FailedError as error:
        if durable.is_full(error) and space.backend:
            raise FailedError(str(error), hint=f"its files do not fit into {space}") from error
        raise


def resize(instance: Instance, name: str, space: Space, *, live: bool) -> None:
    """Change the limits of a volume, with all that is in it, by the backend that it has; `live` while servers
    have it mounted.
    """
    path = _ours(instance, name)
    if space.backend != IMAGE:
        building.limit(path, space)
        return
    from vsprov.store.space import shared

    shared.resize(path, space.space, live=live)


def write(instance: Instance, name: str, applied: Mapping[str, Any]) -> None:
    """Record what was applied, safe from power failure."""
    path = _ours(instance, name)
    recorded, _ = sealed.read(f"{path}/{RECORD}")
    building.write_record(path, applied, recorded.get(CREATED, 0) if recorded else 0)


def set_root(instance: Instance, name: str, owner: str, mode: str) -> None:
    """Set the owner ("0:0") and the mode ("0755") of the root directory of a volume; "" leaves either."""
    path = _ours(instance, name)
    try:
        with directory.opened_at(path) as top:
            _set_root(top, owner, mode)
    except OSError as error:
        raise durable.failed(path, "set its owner and mode", error) from error


def _set_root(path: str, owner: str, mode: str) -> None:
    if owner:
        uid, gid = map(int, owner.split(":"))
        os.chown(path, uid, gid, follow_symlinks=False)
    if mode:
        os.chmod(path, int(mode, 8))


def rename(instance: Instance, old: str, new: str) -> None:
    """Give a volume another name, atomically and safe from power failure.

    ConflictError if something else has that name.
    """
    folders.rename(_ours(instance, old), new, "Volume")


def refuse_data(instance: Instance, name: str) -> None:
    """FailedError if a volume, which no server has mounted any more, has files."""
    path = folders.place(instance.volumes, name)
    if os.path.lexists(path):
        building.wait_until_unused(path)
        if not directory.observed_at(name, path, disks.Disks()).empty:
            message = "not removed: it was empty when the plan was made, and has data now"
            hint = f"to delete its data, add --delete-data {name}"
            raise FailedError(f"Volume/{name}: {message}", hint=hint)


def set_aside(instance: Instance, name: str) -> str | None:
    """Rename a volume for `durable.remove_unmounted`; its new path, None without one.

    ConflictError if it belongs to another instance.
    """
    with suppress(FileNotFoundError):
        ownership.refuse_foreign(folders.place(instance.volumes, name), instance.name, f"Volume/{name}")
        path = f"{instance.volumes}/{name}"
        durable.refuse_mounts(path)
        try:
            aside = durable.set_aside(path)
            durable.flush_folder(instance.volumes)
            return aside
        except OSError as error:
            raise durable.failed(path, "remove", error) from error
    return None


def remove(instance: Instance, path: str) -> None:
    """Remove what was a volume of the instance, at this path, with its limit.

    Before that, the kernel writes back what servers have left in memory.
    """
    from vsprov.store.space import project

    if number := project.find(path, DATA):
        project.release(instance.volumes, number)
    building.wait_until_unused(path)
    durable.remove_unmounted(path)


def prepare(instance: Instance, name: str, fill: Fill) -> None:
    """Make other files of a volume beside its own, with the same limit, safe from power failure.

    `fill` gets the path of the empty directory for them. A crash leaves what `sweep` removes.
    """
    path, making = _ours(instance, name), _making(instance, name)
    seen = directory.observed_at(name, path, disks.Disks()).space
    space = Space(seen.backend, seen.space, seen.inodes) if seen else UNLIMITED
    try:
        durable.remove_tree(making)
        os.mkdir(making, 0o700)
        with _cleared(instance, making):
            building.fill_files(making, space, fill)
            durable.flush_all(making)
    except OSError as error:
        raise durable.failed(making, "make", error) from error


def prepared(instance: Instance, name: str) -> Pair:
    """What `exchange` takes to give a volume, which nobody has mounted, the files of `prepare`."""
    path, making = _ours(instance, name), _making(instance, name)
    durable.refuse_mounts(path)
    building.wait_until_unused(path)
    part = DISK_IMAGE if disks.has_image(making) else DATA
    return f"{path}/{part}", f"{making}/{part}"


def forget(instance: Instance, name: str) -> None:
    """Remove what `prepare` has made, or what was exchanged for it."""
    if os.path.lexists(making := _making(instance, name)):
        durable.refuse_mounts(making)
        remove(instance, making)


def settle_new(instance: Instance) -> list[str]:
    """Keep the volumes that were imported or cloned with a server that exists now, and remove those of an
    import or clone that did not get so far; the paths of these. The caller holds the lock.
    """
    removed = []
    for name in folders.names(instance.volumes):
        path = f"{instance.volumes}/{name}"
        server = marks.find_mark(path, MADE_FOR)
        if server is None:
            continue
        if os.path.lexists(folders.place(instance.servers, server)):
            marks.remove_mark(path, MADE_FOR)
        elif (aside := set_aside(instance, name)) is not None:
            remove(instance, aside)
            removed.append(path)
    return removed


def _making(instance: Instance, name: str) -> str:
    return f"{instance.volumes}/{durable.MAKING}{name}"


@contextmanager
def _cleared(instance: Instance, making: str) -> Iterator[None]:
    """Remove what is at this path if the block fails."""
    try:
        yield
    except BaseException:
        durable.refuse_mounts(making)
        remove(instance, making)
        raise


def _ours(instance: Instance, name: str) -> str:
    """The path of a volume that this instance owns. ConflictError if it belongs to another owner."""
    return ownership.owned(folders.place(instance.volumes, name), instance.name, f"Volume/{name}")
