"""Changing the disk so that a crash leaves the old or the new, and removing whole trees.

A name that starts with one of `LEFTOVERS` is never read: it is on its way in or out, and `folders.sweep`
removes what a crash left.
"""

from __future__ import annotations

import errno
import os
import re

from vsprov.errors import FailedError, reason
from vsprov.kernel import syscall
from vsprov.kernel.paths import FOLDER
from vsprov.store.disk import marks
from vsprov.store.disk.descent import Descent

TEMPORARY = ".tmp-"
MAKING = ".making-"
REMOVING = ".removing-"
LEFTOVERS = (TEMPORARY, MAKING, REMOVING)

MOUNTS = "/proc/self/mountinfo"
HINTS = {
    errno.ENOSPC: "free some space on that file system",
    errno.EDQUOT: "the quota of that file system is used up",
    errno.EROFS: "the file system is mounted read-only",
    errno.EACCES: "run as root",
    errno.EPERM: "run as root",
}


def failed(path: str, done: str, error: OSError) -> FailedError:
    """The error to raise when the kernel refused something that was `done` to `path`."""
    hint = HINTS.get(error.errno or 0, "")
    if error.errno == errno.EPERM and os.geteuid() == 0:
        hint = "lsattr shows whether it was made immutable; chattr -i takes that away"
    return FailedError(f"{path}: {done}: {reason(error)}", hint=hint)


def temporary(path: str) -> str:
    """Where `write_file` keeps the new content until it is whole."""
    folder, name = os.path.split(path)
    return os.path.join(folder, TEMPORARY + name)


def write_file(
    path: str, data: bytes, mode: int = 0o600, *, owner: marks.Owner | None = None, flush: bool = True
) -> None:
    """Make `data` the content of `path`; whatever happens on the way, the old content stays whole.

    The file bears the mark of `owner` from the first moment it has its name. With `flush` false a power cut
    may still lose or tear the new content, until `flush_all` has been called. Two processes must not write
    the same path at once.
    """
    new = temporary(path)
    try:
        try:
            _write(new, data, mode, owner, flush)
            os.rename(new, path)
        except BaseException:
            unlink(new)
            raise
        if flush:
            flush_folder(os.path.dirname(path))
    except OSError as error:
        raise failed(path, f"write {len(data)} bytes", error) from error


def _write(path: str, data: bytes, mode: int, owner: marks.Owner | None, flush: bool) -> None:
    unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        if owner is not None:
            marks.write_owner(fd, owner, path)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if flush:
            os.fsync(fd)
    finally:
        os.close(fd)


def unlink(path: str) -> bool:
    """Remove a file; False when there was none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def flush_folder(path: str) -> None:
    """Put on disk which names the folder holds. A rename outlives a power cut only after this; fsync(2)."""
    fd = os.open(path or ".", FOLDER & ~os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_all(path: str) -> None:
    """Put on disk everything written so far to the file system of `path`: one wait for many. syncfs(2)."""
    try:
        fd = os.open(path, FOLDER & ~os.O_NOFOLLOW)
        try:
            syscall.syncfs(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise failed(path, "syncfs", error) from error


def rename_new(source: str, target: str) -> None:
    """Rename, raising FileExistsError where rename(2) would replace `target` (an empty directory, say)."""
    syscall.renameat2(source, target, syscall.RENAME_NOREPLACE)


def exchange(one: str, other: str) -> None:
    """Swap two names in one step; at no moment is either missing."""
    syscall.renameat2(one, other, syscall.RENAME_EXCHANGE)


def set_aside(path: str) -> str | None:
    """Rename `path` to a name that `folders.sweep` removes; that name, None when `path` is not there."""
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
    """Raise FailedError when something is mounted on `path` or below it, in this mount namespace."""
    folder, name = os.path.split(path)
    try:
        with open(MOUNTS, "rb", buffering=0) as file:
            table = file.read()
    except OSError as error:
        raise failed(MOUNTS, "read", error) from error
    # The kernel writes blanks, backslashes and # as \ooo.
    if b"/" + re.sub(rb"[ \t\n\\#]", lambda sign: b"\\%03o" % ord(sign[0]), os.fsencode(name)) not in table:
        return
    wanted = os.fsencode(os.path.join(os.path.realpath(folder), name))
    for line in table.splitlines():
        point = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split(b" ", 5)[4])
        if point == wanted or point.startswith(wanted + b"/"):
            label = os.fsdecode(point)
            raise FailedError(
                f"{path}: remove: {label} is still mounted", hint=f"umount {label}, then try again"
            )


def remove_tree(path: str) -> None:
    """Remove `path` and everything below it; nothing happens when it is not there.

    Follows no symbolic link, and raises FailedError rather than reach into another file system or a mount.
    Needs three descriptors and no recursion however deep the tree is, so it goes back up by `..` and makes
    sure of where that led.
    """
    refuse_mounts(path)
    remove_unmounted(path)


def remove_unmounted(path: str) -> None:
    """As `remove_tree`, for a tree that `refuse_mounts` has let pass just before."""
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
        where = error.filename if isinstance(error.filename, str) else ""
        raise failed(path, f"remove {where}" if where not in ("", path) else "remove", error) from error


def _empty(path: str, top: int) -> None:
    """Remove everything in the folder open as `top`, and close that."""
    try:
        descent = Descent(top)
        try:
            descent.left.extend(_clear(top))
            while True:
                if descent.left:
                    name = descent.left.pop()
                    if descent.enter(name) is None:
                        where = "/".join(filter(None, (path, descent.path, name)))
                        raise FailedError(
                            f"{path}: remove: {where} is on another file system", hint=f"umount {where}"
                        )
                    descent.left.extend(_clear(descent.here))
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


def _clear(folder: int) -> list[str]:
    """Remove every entry but the directories that hold something; the names of those."""
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
