"""Unpacks a tar archive in a separate process that is confined to the directory it fills.

Descriptor 0 is the archive, JOB the `Job` as JSON. It prints lines of JSON: {"read"}, the bytes of
the archive read so far; then {"sha256", "diff_id", "left_out", "left_out_count"}, {"needs_below"} or
{"error", "hint"}.

tar(1) follows links that it has unpacked, creates devices, and has no limits. Before this process parses the
first header, its root directory contains nothing but the tree, it has no descriptors except those of the
archive and the pipe, and only the capabilities to set owners, modes and attributes of files. So an archive
can affect nothing outside the tree.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from .confine import MEMORY, Mounts, confine
from .headers import Members
from .refused import NeedsBelow, Refused
from .stream import Archive, Stream, decompressor
from .target import Tree
from .writing import Limits, Unpacking

SHOWN = 5  # special files that were left out, by name


class Job(NamedTuple):
    """The job; `vsprov.store.layers.unpacking` explains `whole`, `merge` and `below`."""

    target: str
    work: str
    below: list[str] | None  # topmost first
    whole: bool
    merge: bool
    parent: int
    limits: dict[str, int]


def main(text: str) -> None:
    job = Job(**json.loads(text))
    try:
        report(unpack(job))
    except NeedsBelow as error:
        report({"needs_below": str(error)})
    except Exception as error:
        report(failure(error, "unpack"))
    os._exit(0)  # without waiting for the thread that reads ahead


def failure(error: Exception, done: str) -> dict[str, Any]:
    """The message for what was raised; `done` is what was done then."""
    if isinstance(error, Refused):
        return {"error": str(error), "hint": error.hint}
    if isinstance(error, MemoryError):
        return {"error": f"unpacking needs more than {MEMORY >> 20} MiB of memory"}
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""  # it may be a descriptor
        return {"error": f"{done}: {where}{error.strerror}", "errno": error.errno}
    if isinstance(error, OSError):
        return {"error": f"it is damaged: {error}"}
    # The parsers of five formats may raise anything for a hostile archive.
    return {"error": f"it is damaged, or not a tar archive: {error}"}


def unpack(job: Job) -> dict[str, Any]:
    limits = Limits(**job.limits)
    archive = Archive(0)
    opened = decompressor(archive.head)
    top = confine(Mounts(job.target, job.work, job.below or []), job.parent)
    stream = Stream(archive, opened(archive), limits.bytes, lambda read: report({"read": read}))
    tree = Tree(top, limits.depth, limits.path, alone=job.below is None)
    members = Members(stream, may_lack_end=not job.whole)
    unpacking = Unpacking(tree, stream, limits, whole=job.whole, merge=job.merge, below=job.below)
    unpacking.sparse = job.merge  # what a build copies comes without its holes
    unpacking.run(members)
    diff_id = stream.diff_id()  # first: it reads what follows the end mark, which belongs to both sums
    left_out = {path: what for path, what in unpacking.left_out.items() if not path.startswith("dev/")}
    return {
        "sha256": archive.sha256.hexdigest(),
        "diff_id": diff_id,
        "left_out": list(left_out.items())[:SHOWN],
        "left_out_count": len(left_out),
    }


def report(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")
