"""Confining this process to the tree that it fills, the archive and the pipe."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from typing import NamedTuple

from .refused import Refused

MEMORY = 1 << 30  # address space; the archive determines how much decompressors allocate

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
INERT = MS_NOSUID | MS_NODEV | MS_NOEXEC
PIVOT_ROOT = {"x86_64": 155}.get(os.uname().machine, 41)  # 41 in the generic system call table

# These would store more than whiteouts and opaque directories in the layer, or prevent mounting it again.
OPTIONS = "redirect_dir=off,metacopy=off,index=off,xino=off"

# Numbers of capabilities(7). Without FSETID, chmod(2) would clear setgid.
CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP = 0, 1, 3, 4, 31
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


class Mounts(NamedTuple):
    """The tree to fill: with `below`, topmost first, the upper layer of an overlay on these."""

    target: str
    work: str
    below: list[str]


def confine(mounts: Mounts, parent: int) -> os.stat_result | None:
    """Make the tree the root of this process and drop all rights; the status of the root below, if any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and kills this process
    os.umask(0)
    for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY)):
        resource.setrlimit(what, (most, most))
    raise_open_files()
    below = os.stat(mounts.below[0]) if mounts.below else None
    _enter(mounts)
    drop_rights()
    end_with(parent)
    return below


def raise_open_files() -> None:
    """Allow as many open files as possible: for the maximum number of layers and levels."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def end_with(parent: int, how: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, which may have happened already."""
    # After capset, which clears it.
    if libc.prctl(PR_SET_PDEATHSIG, how, 0, 0, 0) or os.getppid() != parent:
        raise OSError(errno.ESRCH, "the parent process has ended", "prctl")


def _enter(mounts: Mounts) -> None:
    """Mount the tree on itself in new namespaces, and pivot_root(2) into it.

    No mount of the host remains, so that nothing outside the root can be reached.
    """
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET), "unshare")
    _mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    if mounts.below:
        _mount_overlay(mounts)
    else:
        _mount(mounts.target, mounts.target, None, MS_BIND, None)
        _mount(None, mounts.target, None, MS_REMOUNT | MS_BIND | INERT, None)
    os.chdir(mounts.target)
    check(libc.syscall(PIVOT_ROOT, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def _mount_overlay(mounts: Mounts) -> None:
    """Mount the overlay on its own upper layer.

    Layers are named by descriptors, relative to /proc/self/fd. Before Linux 6.7 they are in one string of at
    most a page, which has room for 500 layers in this form. Nothing in the names needs escaping.
    """
    back = os.open(".", os.O_PATH | os.O_CLOEXEC)
    held = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (mounts.target, mounts.work, *mounts.below)]
    upper, work, *lower = held
    os.chdir("/proc/self/fd")
    layers = f"lowerdir={':'.join(map(str, lower))},upperdir={upper},workdir={work}"
    try:
        _mount("overlay", mounts.target, "overlay", INERT, f"{layers},{OPTIONS}")
    except OSError as error:
        raise Refused(
            f"unpack over layers: mount an overlay of {len(lower) + 1}: {error.strerror}",
            "images need a file system that overlay can write to, such as ext4, xfs, btrfs or tmpfs; see the"
            " kernel log",
        ) from error
    os.fchdir(back)
    for fd in (*held, back):
        os.close(fd)


def drop_rights() -> None:
    """Keep only the capabilities to set owners, modes and attributes of files."""
    kept = sum(1 << number for number in (CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP))
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    # Effective, permitted, inheritable; low and high words.
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    check(libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capset")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    result = libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    check(result, f"mount {kind or 'bind'}")


def check(result: int, call: str) -> None:
    """Raise OSError if a system call has returned -1."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), call)
