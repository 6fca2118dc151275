"""Mount files and directories of the host in a server that runs, and unmount them; or another console."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Container
from contextlib import ExitStack, suppress
from threading import Thread

from vsprov.kernel import proc, syscall

# As mounts at the start: a link at the target is replaced, not followed; one on the way is, inside the root.
_IN_ROOT = syscall.RESOLVE_IN_ROOT | syscall.RESOLVE_NO_MAGICLINKS
_TARGET, _PARENT = os.O_PATH | os.O_NOFOLLOW, os.O_PATH | os.O_DIRECTORY
_PLAIN = syscall.RESOLVE_NO_SYMLINKS | syscall.RESOLVE_NO_XDEV | syscall.RESOLVE_BENEATH
_PTMX, _CONSOLE = "/dev/pts/ptmx", "/dev/console"
_MULTIPLEXER = os.makedev(5, 2)
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441
_TERMINAL = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
SECONDS = 5.0  # for a server whose file systems may not answer
_ATTRIBUTES = syscall.MOUNT_ATTR_NOSUID | syscall.MOUNT_ATTR_NODEV

Held = Callable[[int], int]  # closes a descriptor in the end


def mount_file(pid: int, source: str, target: str, owner: int, *, read_only: bool = False) -> None:
    """Make the file `source` visible at the path `target` in the mount namespace of `pid`.

    A target that is absent is created, for this host id; its directory must exist. OSError with the path that
    failed. open_tree(2), move_mount(2).
    """

    def attach(held: Held) -> None:
        tree = held(syscall.open_tree(syscall.AT_FDCWD, source, syscall.OPEN_TREE_CLONE))
        # Otherwise what the server mounts over it would be mounted on the host too.
        syscall.mount_setattr(tree, "", _attributes(read_only), propagation=syscall.MS_PRIVATE)
        root = _enter(pid, held)
        try:
            place = held(syscall.openat2(root, target, _TARGET, _IN_ROOT))
        except FileNotFoundError:
            place = held(_create(root, target, owner))
        syscall.move_mount(tree, place, path=target)

    _in_thread(attach)


def mount_tree(pid: int, tree: int, target: str, owner: int, *, read_only: bool, on: Container[str]) -> None:
    """Move a detached mount of a directory to the path `target` in the mount namespace of `pid`, with the ids
    that are stored as those of its user namespace.

    A target that is absent is created, for this host id. OSError with the path that failed: EINVAL if the
    file system cannot be idmapped, EXDEV if the target is on another mount than those at the points `on`:
    the server could otherwise have it mounted over /proc by a link (CVE-2025-31133).
    """

    def attach(held: Held) -> None:
        users = held(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))
        numbers = {one.number: proc.unescaped(one.point) for one in proc.mounts(f"/proc/{pid}/mountinfo")}
        opened = held(os.open("/proc/self/fdinfo", _PARENT | os.O_CLOEXEC))
        attributes = _attributes(read_only) | syscall.MOUNT_ATTR_IDMAP
        syscall.mount_setattr(tree, "", attributes, userns=users, propagation=syscall.MS_PRIVATE)
        place = held(_folder(_enter(pid, held), target, owner))
        point = numbers.get(_mount_of(opened, place), "")
        if point not in on:
            message = f"leads to the mount {point or 'of another namespace'}"
            raise OSError(errno.EXDEV, message, target)
        syscall.move_mount(tree, place, path=target)

    _in_thread(attach)


def unmount(pid: int, point: str, number: int) -> None:
    """Unmount the mount with this ID at the path `point`, which has no links, in the namespace of `pid`.

    OSError, ESTALE, if something else is mounted there; EBUSY if a process uses it. umount2(2).
    """

    def detach(held: Held) -> None:
        opened = held(os.open("/proc/self/fdinfo", _PARENT | os.O_CLOEXEC))
        root = _enter(pid, held)
        folder, name = os.path.split(point)
        parent = held(syscall.openat2(root, folder, _PARENT, _IN_ROOT | syscall.RESOLVE_NO_SYMLINKS))
        os.close(_mounted(opened, parent, name, number, point))
        os.fchdir(parent)
        syscall.umount2(name, syscall.UMOUNT_NOFOLLOW)

    _in_thread(detach)


def set_read_only(pid: int, point: str, number: int, read_only: bool) -> None:
    """Make the mount with this ID at `point` read-only or writable; errors as in `unmount`."""

    def change(held: Held) -> None:
        opened = held(os.open("/proc/self/fdinfo", _PARENT | os.O_CLOEXEC))
        root = _enter(pid, held)
        folder, name = os.path.split(point)
        parent = held(syscall.openat2(root, folder, _PARENT, _IN_ROOT | syscall.RESOLVE_NO_SYMLINKS))
        place = held(_mounted(opened, parent, name, number, point))
        flag = syscall.MOUNT_ATTR_RDONLY
        syscall.mount_setattr(place, "", flag if read_only else 0, clear=0 if read_only else flag)

    _in_thread(change)


def mount_console(pid: int, owner: int) -> int:
    """Open another pty of the devpts of `pid`, mount it over its /dev/console, for this host id, and return
    the master. OSError if that is not possible: ETIMEDOUT if a file system of the server does not answer.

    The multiplexer is checked before it is opened, and the slave is opened by TIOCGPTPEER instead of a path,
    because the server may have put something else there (CVE-2025-52565).
    """
    masters: list[int] = []

    def attach(held: Held) -> None:
        descriptors = held(os.open("/proc/self/fd", _PARENT | os.O_CLOEXEC))  # not the server's /proc
        root = _enter(pid, held)
        console = held(_console(root))
        place = held(syscall.openat2(root, _PTMX, os.O_PATH, _IN_ROOT | syscall.RESOLVE_NO_SYMLINKS))
        status = os.fstat(place)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _MULTIPLEXER:
            raise OSError(errno.ENXIO, "not the pty multiplexer", _PTMX)
        master = held(os.open(str(place), _TERMINAL, dir_fd=descriptors))
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = held(fcntl.ioctl(master, _TIOCGPTPEER, _TERMINAL))
        os.fchown(slave, owner, -1)
        tree = held(syscall.open_tree(slave, "", syscall.OPEN_TREE_CLONE | syscall.AT_EMPTY_PATH))
        syscall.move_mount(tree, console, path=_CONSOLE)
        masters.append(os.dup(master))

    _in_thread(attach, SECONDS)
    return masters[0]


def _console(root: int) -> int:
    """A descriptor of what to mount a console on. A pty that has hung up is unlinked, and nothing can be
    mounted on it: it is unmounted.
    """
    place = syscall.openat2(root, _CONSOLE, _TARGET, _IN_ROOT)
    if os.fstat(place).st_nlink:
        return place
    os.close(place)
    folder, name = os.path.split(_CONSOLE)
    parent = syscall.openat2(root, folder, _PARENT, _IN_ROOT)
    try:
        os.fchdir(parent)
    finally:
        os.close(parent)
    syscall.umount2(name, syscall.MNT_DETACH | syscall.UMOUNT_NOFOLLOW)
    return syscall.openat2(root, _CONSOLE, _TARGET, _IN_ROOT)


def _mounted(opened: int, parent: int, name: str, number: int, point: str) -> int:
    """A descriptor of the root of the mount with this ID; OSError, ESTALE, if it is not mounted there."""
    place = os.open(name, _PARENT | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    if _mount_of(opened, place) != number:
        os.close(place)
        raise OSError(errno.ESTALE, "something else is mounted there", point)
    return place


def _attributes(read_only: bool) -> int:
    return _ATTRIBUTES | (syscall.MOUNT_ATTR_RDONLY if read_only else 0)


def _in_thread(work: Callable[[Held], None], seconds: float | None = None) -> None:
    """Do work that enters a mount namespace. OSError of it, or ETIMEDOUT if it takes longer.

    A process that shares its working directory and root with others cannot change its mount namespace
    (setns(2)), so this is done by a thread that gets its own and never comes back.
    """
    failure: list[OSError] = []

    def run() -> None:
        with ExitStack() as opened:

            def held(fd: int) -> int:
                opened.callback(os.close, fd)
                return fd

            try:
                work(held)
            except OSError as error:
                failure.append(error)

    thread = Thread(target=run, daemon=seconds is not None)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(errno.ETIMEDOUT, f"no answer after {seconds:g} s")
    if failure:
        raise failure[0]


def _enter(pid: int, held: Held) -> int:
    """Enter the mount namespace of `pid`; a descriptor of its root."""
    namespace = held(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
    syscall.unshare(syscall.CLONE_FS)
    syscall.setns(namespace, syscall.CLONE_NEWNS)
    return held(os.open("/", _PARENT | os.O_CLOEXEC))


def _mount_of(opened: int, fd: int) -> int:
    """The ID of the mount that a descriptor is on; `opened` is /proc/self/fdinfo. proc_pid_fdinfo(5)."""
    with open(os.open(str(fd), os.O_RDONLY | os.O_CLOEXEC, dir_fd=opened)) as file:
        found = (line.partition(":")[2] for line in file if line.startswith("mnt_id:"))
        return int(next(found))


def _folder(root: int, target: str, owner: int) -> int:
    """Open a directory, which is created with its parents, for this host id, where it is absent.

    A link that leads to nothing is not followed: OSError, ENOTDIR.
    """
    try:
        return syscall.openat2(root, target, _PARENT, _IN_ROOT)
    except FileNotFoundError:
        folder, name = os.path.split(target.rstrip("/"))
    parent = _folder(root, folder, owner)
    try:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
            # Not what the server may have mounted there meanwhile.
            made = syscall.openat2(parent, name, os.O_RDONLY | os.O_DIRECTORY, _PLAIN)
            try:
                os.fchown(made, owner, owner)
                os.fchmod(made, 0o755)  # whatever the umask is
            finally:
                os.close(made)
        return os.open(name, _PARENT | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror, target) from error
    finally:
        os.close(parent)


def _create(root: int, target: str, owner: int) -> int:
    """Create the file for this host id, in a directory that exists, and open it as a target."""
    folder, name = os.path.split(target)
    parent = syscall.openat2(root, folder, _PARENT, _IN_ROOT)
    try:
        with suppress(FileExistsError):
            made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent)
            try:
                os.fchown(made, owner, owner)
            finally:
                os.close(made)
        return os.open(name, _TARGET | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror, target) from error
    finally:
        os.close(parent)
