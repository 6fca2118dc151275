"""Unpacking archives into directories, by a worker process (`vsprov.store.unpack`)."""

from __future__ import annotations

import json
import os
import select
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from vsprov import PACKAGE
from vsprov.errors import EXHAUSTED, ImageError
from vsprov.kernel.storage import full
from vsprov.store.disk.progress import PACE, Progress
from vsprov.store.trees import tree
from vsprov.store.trees.limits import LIMITS, Limits
from vsprov.store.trees.tree import OPAQUE, OVERLAY

PROGRAM = os.path.join(PACKAGE, "store", "unpack", "__main__.py")


def hint_of(failed: Mapping[str, Any], target: str | None) -> str:
    """The hint for a worker's message that it has failed; `target` is where it writes, if the host has a path
    for that.
    """
    number = failed.get("errno", 0)
    if number in full.FULL:
        return full.hint(number, target) if target else EXHAUSTED[number]
    return str(failed.get("hint", ""))


class NeedsBelow(Exception):
    """The archive refers to the layers below it, which were not given."""


class Unpacked(Struct, frozen=True):
    """The SHA-256 of an archive, and that of its decompressed data (`diff_id`).

    `note` says which special files were left out; "" if there were none.
    """

    sha256: str
    diff_id: str
    note: str = ""


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
    """Unpack the archive open as `archive`, from its start, into the empty directory `target`.

    The archive is a tar, plain or compressed (gzip, xz, bzip2, zstd), in a file or a pipe. With `whole` it is
    a complete root file system, without whiteouts. Otherwise it is a layer, and `below` what it is on top of:

        ()       nothing: whiteouts have no effect
        trees    lower layers, topmost first: `target` becomes the layer on top of them, with the whiteouts
                 and opaque directories of overlay; `work` is an empty directory beside it, and used up
        None     unknown: NeedsBelow is raised as soon as the archive refers to it

    With `merge` existing directories are kept as they are, and a file does not replace a directory; without,
    the last entry of a name replaces earlier ones.

    Devices and FIFOs are left out, and so is what they replace; those below dev/ without a note.

    Directories without an entry are owned by root, with mode 0755 and mtime 0; so is `target` itself, unless
    the trees below have another root. `progress` reports the bytes of the archive that were read.

    Raises ImageError, with a message that starts with `label`, for an archive that is not allowed and for
    errors of the kernel; OSError if the worker cannot be started; and whatever `progress` raises, which
    cancels the work. The caller then removes the contents of `target` and `work`.
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
        "limits": structs.asdict(limits),
    }
    last, code = _run(archive, job, lambda read: progress("unpacked", read, total))
    if "needs_below" in last:
        raise NeedsBelow(f"{label}: {last['needs_below']}")
    if "error" in last:
        raise ImageError(f"{label}: {last['error']}", hint=hint_of(last, target))
    if "sha256" not in last:
        raise ImageError(f"{label}: the unpacking process ended unexpectedly (status {code})")
    if below:
        _strip(target)
    note = tree.left_out_note(last["left_out"], last["left_out_count"])
    return Unpacked(last["sha256"], last["diff_id"], note)


def _run(
    archive: int, job: Mapping[str, Any], progress: Callable[[int], None]
) -> tuple[dict[str, Any], int | None]:
    """Run the worker: its last message, {} if it has sent none, and its exit code.

    `progress` gets the bytes of the archive that were read.
    """
    flags = ["-P", "-X", "utf8"] + (["-B"] if sys.dont_write_bytecode else [])
    last: dict[str, Any] = {}
    # Not subprocess.DEVNULL: where no descriptor is left for it, Python before 3.11.4 forgets to close the
    # pipe that it has made (CPython issue 87474).
    with open(os.devnull, "wb") as nowhere, subprocess.Popen(
        [sys.executable, *flags, PROGRAM, "worker", json.dumps(job)],
        stdin=archive, stdout=subprocess.PIPE, stderr=nowhere, cwd="/", bufsize=0,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        read = 0
        try:
            for message in messages(child.stdout.fileno()):
                last = message or last
                read = last.get("read", read)
                progress(read)
        finally:
            child.kill()
    return last, child.returncode


def messages(pipe: int) -> Iterator[dict[str, Any]]:
    """The messages of the worker until it closes the pipe; {} after each `PACE` seconds without one."""
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
    """Remove the attributes that overlay sets in an upper layer and does not use in a lower one.

    Such as trusted.overlay.origin, impure and uuid, which are valid on this machine only.
    """
    for _, folders, files, folder in os.fwalk(target):
        for name in (".", *folders, *files):
            path = f"/proc/self/fd/{folder}/{name}"
            for attribute in os.listxattr(path, follow_symlinks=False):
                if attribute.startswith(OVERLAY) and attribute != OPAQUE:
                    os.removexattr(path, attribute, follow_symlinks=False)
