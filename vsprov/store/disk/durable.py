"""Atomic changes on disk, and the removal of directory trees.

Names that start with one of `LEFTOVERS` belong to a change in progress and are never read. After a crash,
`folders.sweep` removes them.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping

from vsprov.errors import EXHAUSTED, FailedError, path_of, reason
from vsprov.kernel import syscall
from vsprov.kernel.paths import FOLDER, open_beneath
from vsprov.kernel.storage import full
from vsprov.store.disk import marks
from vsprov.store.disk.descent import Descent

TEMPORARY = ".tmp-"
MAKING = ".making-"
REMOVING = ".removing-"
LEFTOVERS = (TEMPORARY, MAKING, REMOVING)

MOUNTS = "/proc/self/mountinfo"
_HINTS = {
    **{number: EXHAUSTED[number] for number in (errno.EMFILE, errno.ENFILE)},
    errno.EROFS: "the file system is mounted read-only",
    errno.EACCES: "run as root",
    errno.EPERM: "run as root",
}


def hint_for(error: OSError, place: str | int) -> str:
    """What to do about an error; "" if that is not known. `place`: the path, or the open file, concerned."""
    number = error.errno or 0
    return full.hint(number, place) if number in full.FULL else _HINTS.get(number, "")


def is_full(error: BaseException | None) -> bool:
    """Whether the cause of an error is a file system that is full."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error is not None and error.errno in full.FULL


def failed(path: str, done: str, error: OSError) -> FailedError:
    """The FailedError for an operation on `path` that failed; `done` names the operation."""
    hint = hint_for(error, path)
    if error.errno == errno.EPERM and os.geteuid() == 0:
        hint = "check for the immutable attribute with lsattr; chattr -i removes it"
    return FailedError(f"{path}: {done}: {reason(error)}", hint=hint)


def temporary(path: str) -> str:
    """The path that `write_file` writes to before it renames it to `path`."""
    folder, name = os.path.split(path)
    return os.path.join(folder, TEMPORARY + name)


def write_file(
    path: str,
    data: bytes,
    mode: int = 0o600,
    *,
    owner: marks.Owner | None = None,
    more: Mapping[str, str] | None = None,
    flush: bool = True,
) -> None:
    """Replace the content of `path` by `data`, atomically.

    The file has the mark of `owner`, and the marks `more`, from the moment it has its name. If `flush` is
    false, a power failure may lose or truncate the new content until `flush_all` has been called. Two
    processes must not write the same path at the same time.
    """
    new = temporary(path)
    try:
        try:
            _write(new, data, mode, owner, more or {}, flush)
            os.rename(new, path)
        except BaseException:
            unlink(new)
            raise
        if flush:
            flush_folder(os.path.dirname(path))
    except OSError as error:
        raise failed(path, f"write {len(data)} bytes", error) from error


def _write(
    path: str, data: bytes, mode: int, owner: marks.Owner | None, more: Mapping[str, str], flush: bool
) -> None:
    unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        if owner is not None:
            marks.write_owner(fd, owner, path)
        for name, text in more.items():
            marks.write_mark(fd, name, text, path)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if flush:
            os.fsync(fd)
    finally:
        os.close(fd)


def unlink(path: str) -> bool:
    """Remove a file; False if there is none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        # A file system that is mounted read-only says that of what does not exist, too.
        if error.errno != errno.EROFS or os.path.lexists(path):
            raise
        return False
    return True


def flush_folder(path: str) -> None:
    """Write the entries of a directory to disk; only then a rename survives a power failure. fsync(2)."""
    fd = os.open(path or ".", FOLDER & ~os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_all(path: str) -> None:
    """Write all data of the file system of `path` to disk: one wait for many files. syncfs(2)."""
    try:
        fd = os.open(path, FOLDER & ~os.O_NOFOLLOW)
        try:
            syscall.syncfs(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise failed(path, "syncfs", error) from error


def rename_new(source: str, target: str) -> None:
    """Rename, but raise FileExistsError where rename(2) would replace `target`."""
    syscall.renameat2(source, target, syscall.RENAME_NOREPLACE)


def exchange(one: str, other: str) -> None:
    """Exchange two names atomically."""
    syscall.renameat2(one, other, syscall.RENAME_EXCHANGE)


def set_aside(path: str) -> str | None:
    """Rename `path` to a name that `folders.sweep` removes; that name, or None if `path` does not exist."""
    folder, name = os.path.split(path)
    number = 0
    while True:
        target = f"{folder}/{REMOVING}{name}-{number}"
        try:
            rename_new(path, target)
        except FileExistsError:
            number += 1
        except FileNotFoundError:
            return None
        else:
            return target


def refuse_mounts(path: str) -> None:
    """Raise FailedError if anything is mounted on or below `path`, in this mount namespace."""
    folder, name = os.path.split(path)
    try:
        with open(MOUNTS, "rb", buffering=0) as file:
            table = file.read()
    except OSError as error:
        raise failed(MOUNTS, "read", error) from error
    # The kernel escapes whitespace, backslashes and # as \ooo.
    if b"/" + re.sub(rb"[ \t\n\\#]", lambda sign: b"\\%03o" % ord(sign[0]), os.fsencode(name)) not in table:
        return
    wanted = os.fsencode(os.path.join(os.path.realpath(folder), name))
    for line in table.removesuffix(b"\n").split(b"\n"):
        point = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split(b" ", 5)[4])
        if point == wanted or point.startswith(wanted + b"/"):
            mount = os.fsdecode(point)
            raise FailedError(
                f"{path}: remove: {mount} is still mounted", hint=f"umount {mount}, then try again"
            )


def remove_tree(path: str) -> None:
    """Remove `path` and everything below it, if it exists.

    Follows no symbolic link, and raises FailedError instead of entering another file system or a mount.
    """
    refuse_mounts(path)
    remove_unmounted(path)


def remove_unmounted(path: str) -> None:
    """Like `remove_tree`, right after the caller has called `refuse_mounts`."""
    try:
        try:
            top = os.open(path, FOLDER)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            os.unlink(path)
            return
        _empty(path, top)
        os.rmdir(path)
    except OSError as error:
        where = path_of(error)
        raise failed(path, f"remove {where}" if where not in ("", path) else "remove", error) from error


def _empty(path: str, top: int) -> None:
    """Remove everything in the directory open as `top`, then close it."""
    try:
        descent = Descent(top)
        try:
            descent.left.extend(_clear(top))
            while True:
                if descent.left:
                    name = descent.left.pop()
                    if descent.enter(name) is not None:
                        descent.left.extend(_clear(descent.here))
                        continue
                    where = "/".join(filter(None, (path, descent.path, name)))
                    if not _remove_subvolume(where, descent.here, name):
                        raise FailedError(
                            f"{path}: remove: {where} is on another file system", hint=f"umount {where}"
                        )
                elif descent.is_at_top:
                    return
                else:
                    name = descent.name
                    if not descent.leave():
                        raise FailedError(f"{path}: remove: {name} was moved meanwhile")
                    os.rmdir(name, dir_fd=descent.here)
        finally:
            descent.close()
    finally:
        os.close(top)


def _remove_subvolume(path: str, folder: int, name: str) -> bool:
    """Remove the subvolume `name` in an open directory; False if it is a mount.

    Its files are removed one by one: when the kernel drops a whole tree, what its quota groups use becomes
    unknown; btrfs-quota(8).
    """
    from vsprov.kernel.storage import btrfs

    try:
        top = open_beneath(folder, name, FOLDER)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    group = btrfs.subvolume(top) if btrfs.is_subvolume(top) else 0
    shared = btrfs.parents(top, group) if group else ()
    _empty(path, top)
    if shared:  # until it commits, the kernel takes what it used from these only if it still has its group
        syscall.syncfs(folder)
    os.rmdir(name, dir_fd=folder)
    if group:
        btrfs.remove_group(folder, group)
    return True


def _clear(folder: int) -> list[str]:
    """Remove all entries except directories that are not empty; the names of those."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    left = []
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
            continue
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            left.append(name)
    return left
