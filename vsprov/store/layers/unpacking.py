"""Unpacking an archive into a directory: the parent's side of the worker in `unpack`."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vsprov import PACKAGE
from vsprov.errors import ImageError
from vsprov.store.disk.limits import LIMITS, Limits
from vsprov.store.disk.progress import PACE, Progress
from vsprov.store.disk.tree import OPAQUE, OVERLAY

PROGRAM = os.path.join(PACKAGE, "store", "unpack", "__main__.py")


class NeedsBelow(Exception):
    """The archive is a layer that refers to the layers below it, and these were not given."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The sha256 of an archive as it was read, and of all the bytes it decompresses to."""

    sha256: str
    diff_id: str


def unpack(
    archive: int,
    target: str,
    *,
    whole: bool = False,
    merge: bool = False,
    below: Sequence[str] | None = (),
    work: str = "",
    limits: Limits = LIMITS,
    progress: Progress,
    label: str,
) -> Unpacked:
    """Fill the empty directory `target` with what the archive open as `archive` holds, read from its start.

    The archive is a tar, plain or compressed (gzip, xz, bzip2, zstd), in a file or a pipe. `whole` says that
    it is an image of its own, which may hold no whiteouts. Else it is a layer, and `below` what it lies on:

        ()       nothing: whiteouts have no effect
        trees    lower layers, topmost first: `target` becomes the layer to go on top of them, with the
                 whiteouts and opaque directories of an overlay; `work`, empty and beside it, is used up
        None     not known: NeedsBelow as soon as the archive refers to it

    With `merge` directories that are there stay as they are, and no file takes the place of one, where else
    the last to come replaces what is there.

    Directories that it leaves out are root's, mode 0755, of the year 1970; so is `target` itself, unless the
    trees below have another root. `progress` is told how many bytes of the archive are read.

    Raises ImageError, its message starting with `label`, for an archive that no image may come from and for
    what the kernel refuses; OSError when no worker can be started; and what `progress` raises, which ends the
    work. Whatever is in `target` and `work` then is for the caller to remove.
    """
    status = os.fstat(archive)
    total = 0
    if stat.S_ISREG(status.st_mode):
        os.lseek(archive, 0, os.SEEK_SET)
        total = status.st_size
    job = {
        "target": os.path.abspath(target),
        "work": os.path.abspath(work),
        "below": None if below is None else [os.path.abspath(tree) for tree in below],
        "whole": whole,
        "merge": merge,
        "parent": os.getpid(),
        "limits": dataclasses.asdict(limits),
    }
    flags = ["-P", "-X", "utf8"] + (["-B"] if sys.dont_write_bytecode else [])
    last: dict[str, Any] = {}
    # Not subprocess.DEVNULL: where no descriptor is left for it, Python before 3.11.4 forgets to close the
    # pipe that it has made (CPython issue 87474).
    with open(os.devnull, "wb") as nowhere, subprocess.Popen(
        [sys.executable, *flags, PROGRAM, json.dumps(job)],
        stdin=archive, stdout=subprocess.PIPE, stderr=nowhere, cwd="/", bufsize=0,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        read = 0
        try:
            for message in _messages(child.stdout.fileno()):
                last = message or last
                read = last.get("read", read)
                progress("unpacked", read, total)
        finally:
            child.kill()
    if "needs_below" in last:
        raise NeedsBelow(f"{label}: {last['needs_below']}")
    if "error" in last:
        raise ImageError(f"{label}: {last['error']}", hint=last.get("hint", ""))
    if "sha256" not in last:
        raise ImageError(f"{label}: unpacking stopped and gave no reason (status {child.returncode})")
    if below:
        _strip(target)
    return Unpacked(last["sha256"], last["diff_id"])


def _messages(pipe: int) -> Iterator[dict[str, Any]]:
    """What the worker says until it closes the pipe; {} when it has said nothing for `PACE` seconds."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    rest = b""
    while True:
        if not poll.poll(PACE * 1000):
            yield {}
            continue
        data = os.read(pipe, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from map(json.loads, lines)


def _strip(target: str) -> None:
    """Take away what an overlay notes in its upper layer for itself and a lower one makes no use of.

    Where a file was copied up from tells of this machine alone (trusted.overlay.origin, impure, uuid).
    """
    for _, folders, files, folder in os.fwalk(target):
        for name in (".", *folders, *files):
            path = f"/proc/self/fd/{folder}/{name}"
            for attribute in os.listxattr(path, follow_symlinks=False):
                if attribute.startswith(OVERLAY) and attribute != OPAQUE:
                    os.removexattr(path, attribute, follow_symlinks=False)
