"""The directories of the state root, and the removal of what a crash has left in them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from msgspec import Struct

from vsprov.errors import ConflictError, FailedError, NotPermittedError, reason
from vsprov.kernel.paths import FOLDER, UnsafePathError, walk_host
from vsprov.model.values.patterns import NAME_PATTERN
from vsprov.store.disk import durable
from vsprov.store.instance import DISK_IMAGE, DISK_SUBVOLUME, Instance

# ioctl_iflags(2)
_GET_FLAGS, _SET_FLAGS, _TOP_OF_HIERARCHY = 0x80086601, 0x40086602, 0x00020000
SNAPSHOTS = "snapshots"  # in the directory of a server
_UNSUPPORTED = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def place(folder: str, name: str, suffix: str = "") -> str:
    """The path of the object `name` in `folder`.

    Raises FailedError for an invalid name, which could lead out of the directory.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise FailedError(f"{folder}: {name!r} is not a valid name")
    return f"{folder}/{name}{suffix}"


def rename(path: str, new: str, kind: str) -> None:
    """Give the directory of an object of this kind another name, atomically, and safe from power failure.

    ConflictError if something else has that name.
    """
    folder = os.path.dirname(path)
    try:
        durable.rename_new(path, place(folder, new))
        durable.flush_folder(folder)
    except FileExistsError as error:
        raise ConflictError(f"{kind}/{new}: rename {path}: something else already exists there") from error
    except OSError as error:
        raise durable.failed(path, f"rename it to {new}", error) from error


class UnsafeFolder(Struct, frozen=True):
    """Why a directory of the state root is not safe to use.

    `mode` is the mode that makes it safe; None if only the administrator can do that.
    """

    path: str
    message: str
    mode: int | None = None
    is_shared: bool = False  # others have files in it, whom another mode would lock out

    @property
    def hint(self) -> str:
        if self.is_shared:
            return f"choose another --root, such as {self.path}/vsprov"
        if self.mode is not None:
            return f"vsprov apply restricts it to root; check whether others have changed {self.path}"
        return f"restore {self.path} as a directory of root, or choose another --root"


def unsafe_folders(instance: Instance) -> list[UnsafeFolder]:
    """What is wrong with the state root and its directories, as far as they exist; normally nothing."""
    root = os.path.abspath(instance.root)
    try:
        fd = walk_host(root, owners=False).fd
    except UnsafePathError as error:
        return [UnsafeFolder(str(error.filename), reason(error))]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise durable.failed(root, "open", error) from error
    try:
        found = [_unless_shared(one, fd, instance) for one in _check(root, os.fstat(fd), is_root=True)]
        if found and found[0].mode is None:
            return found
        for folder in instance.folders:
            try:
                status = os.stat(os.path.basename(folder), dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            found += _check(folder, status, is_root=False)
    finally:
        os.close(fd)
    return found


def _check(path: str, status: os.stat_result, *, is_root: bool) -> Iterator[UnsafeFolder]:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode):
        yield UnsafeFolder(path, "not a directory")
    elif status.st_uid not in (0, os.geteuid()):
        yield UnsafeFolder(path, f"belongs to uid {status.st_uid}, not to root")
    elif mode & 0o022:
        yield UnsafeFolder(path, f"other users may write to it (mode {mode:04o})", 0o700)
    elif mode & 0o055 and not is_root:
        yield UnsafeFolder(path, f"other users may enter it (mode {mode:04o})", 0o700)


def _unless_shared(root: UnsafeFolder, fd: int, instance: Instance) -> UnsafeFolder:
    """What is wrong with the state root, which must not be restricted if it is, for example, /tmp."""
    if root.mode is None:
        return root
    ours = {os.path.basename(folder) for folder in instance.folders}
    other = next((name for name in sorted(os.listdir(f"/proc/self/fd/{fd}")) if name not in ours), None)
    if other is None:
        return root
    message = f"{root.message}, and it contains {other!r}, which is not of vsprov"
    return UnsafeFolder(root.path, message, is_shared=True)


def restrict_to_root(instance: Instance) -> list[UnsafeFolder]:
    """Restrict the state root and its directories to root where others may write or enter; what was repaired.

    FailedError for those that only the administrator can repair.
    """
    repaired = []
    for one in unsafe_folders(instance):
        if one.mode is None:
            raise FailedError(f"{one.path}: {one.message}", hint=one.hint)
        try:
            os.chmod(one.path, one.mode)
        except OSError as error:
            raise durable.failed(one.path, "restrict to root", error) from error
        repaired.append(one)
    return repaired


def prepare(instance: Instance, *, also: Iterable[str] = ()) -> None:
    """Create the state root and its usual directories, and `also` others, where missing, for root only.

    Images contain setuid programs: a user of the host who could reach them would run them as the host's root
    (CVE-2021-41091).
    """
    try:
        _make_root(instance.root)
        for folder in (*instance.usual_folders, *also):
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
                if folder in (instance.servers, instance.layers):
                    _spread(folder)
    except OSError as error:
        raise durable.failed(str(error.filename), "create the state directories", error) from error
    restrict_to_root(instance)


def _spread(folder: str) -> None:
    """Have ext4 place each directory made in `folder` in a block group of its own, as below /; chattr(1), T.

    In one group, ext4 reads past every inode that was freed there in the last seconds to create the next one:
    after 100 servers were removed, creating 100 took 0.2 s. File systems without the attribute need nothing.
    """
    fd = os.open(folder, FOLDER)
    try:
        flags = bytearray(fcntl.ioctl(fd, _GET_FLAGS, bytes(8)))
        flags[:4] = (int.from_bytes(flags[:4], sys.byteorder) | _TOP_OF_HIERARCHY).to_bytes(4, sys.byteorder)
        fcntl.ioctl(fd, _SET_FLAGS, bytes(flags))
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(fd)


def _make_root(root: str) -> None:
    """Create the state root, behind a link too, and its parents with the usual mode whatever the umask."""
    if os.path.isdir(root):
        return
    missing, root = [], os.path.realpath(root)
    path = os.path.dirname(root)
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in (*reversed(missing), root):
        with suppress(FileExistsError):  # another import has created it meanwhile
            os.mkdir(folder, 0o700 if folder == root else 0o755)


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


def leftovers(folder: str) -> list[str]:
    """The names in a directory of the state root of what a crash has left; [] if it does not exist."""
    try:
        return [name for name in os.listdir(folder) if name.startswith(durable.LEFTOVERS)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise durable.failed(folder, "list", error) from error


def _raise(error: FailedError) -> None:
    raise error


def sweep(instance: Instance, failed: Callable[[FailedError], None] = _raise) -> list[str]:
    """Remove what a crash has left incomplete; the paths removed.

    `failed` is called for what cannot be removed, and the sweep continues. The caller holds the apply lock.
    """
    found = []
    disks = DISK_IMAGE, DISK_SUBVOLUME
    written = {instance.servers: ("server.json", *disks), instance.volumes: ("volume.json",)}
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
                    if folder == instance.transfers and _is_in_use(path):
                        continue
                    durable.remove_tree(path)
                    found.append(path)
                    continue
                for file in written.get(folder, ()):
                    found += _sweep_file(path, file)
            except FailedError as error:
                failed(error)
    return sorted(found)


def hold(path: str) -> int:
    """Keep `sweep` from removing a directory below `transfers`, as long as the descriptor is open."""
    fd = os.open(path, FOLDER)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _is_in_use(path: str) -> bool:
    """Whether a process holds it; those of commands that have died do not."""
    try:
        fd = os.open(path, FOLDER)
    except FileNotFoundError:
        return True  # it has just removed it
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _sweep_file(path: str, name: str) -> list[str]:
    leftover = durable.temporary(f"{path}/{name}")
    try:
        found = [leftover] if durable.unlink(leftover) else []
    except IsADirectoryError:
        durable.remove_tree(leftover)
        found = [leftover]
    except NotADirectoryError:
        return []  # a file in the place of a server or volume; the plan reports it
    except OSError as error:
        raise durable.failed(leftover, "remove", error) from error
    try:
        entries = os.listdir(f"{path}/{SNAPSHOTS}")
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise durable.failed(f"{path}/{SNAPSHOTS}", "list", error) from error
    for name in entries:
        if name.startswith(durable.LEFTOVERS):
            durable.remove_tree(f"{path}/{SNAPSHOTS}/{name}")
            found.append(f"{path}/{SNAPSHOTS}/{name}")
    return found
