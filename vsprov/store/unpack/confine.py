"""Leaves this process nothing but the tree it fills, the archive and the pipe."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from typing import NamedTuple

from .refused import Refused

MEMORY = 1 << 30  # address space; decompressors obey the archive in how much they want

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
INERT = MS_NOSUID | MS_NODEV | MS_NOEXEC
PIVOT_ROOT = {"x86_64": 155}.get(os.uname().machine, 41)  # 41 is the number of all newer architectures

# What would leave in the layer more than whiteouts and opaque directories, or refuse the next mount of it.
OPTIONS = "redirect_dir=off,metacopy=off,index=off,xino=off"

# capabilities(7) and their numbers; without FSETID chmod(2) would drop setgid.
CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP = 0, 1, 3, 4, 31
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class Mounts(NamedTuple):
    """The tree to fill; with `below`, topmost first, as the upper layer of an overlay over these."""

    target: str
    work: str
    below: list[str]


def confine(mounts: Mounts, parent: int) -> os.stat_result | None:
    """Make the tree this process's root and drop all else; the status of the root that lies below, if any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it as well, and ends this process
    os.umask(0)
    for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY)):
        resource.setrlimit(what, (most, most))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for as many layers, or levels, as there may be
    below = os.stat(mounts.below[0]) if mounts.below else None
    _enter(mounts)
    _drop_rights()
    # After capset, which clears it; the check covers a parent that died before.
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or os.getppid() != parent:
        raise OSError(errno.ESRCH, "the process that asked for it is gone", "prctl")
    return below


def _enter(mounts: Mounts) -> None:
    """Mount the tree on itself in namespaces of this process alone, and pivot_root(2) into it.

    No mount of the host is left, so there is nothing that a way out of the root could lead to.
    """
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET), "unshare")
    _mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    if mounts.below:
        _mount_overlay(mounts)
    else:
        _mount(mounts.target, mounts.target, None, MS_BIND, None)
        _mount(None, mounts.target, None, MS_REMOUNT | MS_BIND | INERT, None)
    os.chdir(mounts.target)
    _check(_libc.syscall(PIVOT_ROOT, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def _mount_overlay(mounts: Mounts) -> None:
    """Mount the overlay over its own upper layer.

    Layers are named by descriptors, relative to where /proc shows these: a kernel that takes them in one
    string (before 6.7) has a page for it, which so holds the 500 layers that an overlay can have, and no
    `:` `,` or backslash has to be escaped.
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
            "images need a file system that an overlay can write to, such as ext4, xfs, btrfs or tmpfs; the"
            " kernel's log says more",
        ) from error
    os.fchdir(back)
    for fd in (*held, back):
        os.close(fd)


def _drop_rights() -> None:
    kept = sum(1 << number for number in (CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP))
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    # Effective, permitted, inheritable; low and high words.
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capset")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    result = _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    _check(result, f"mount {kind or 'bind'}")


def _check(result: int, call: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), call)
