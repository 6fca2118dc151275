"""Unpacks a tar archive in a process of its own, shut into the directory that it fills.

Descriptor 0 is the archive, argv[1] the job (`Job` as JSON). Lines of JSON come out: {"read"}, how many bytes
of the archive are read, while it works; then {"sha256", "diff_id"}, {"needs_below"} or {"error", "hint"}.

tar(1) would follow what it has unpacked, make devices, and knows no limits. By the time the first header is
parsed, this process has a root of its own with nothing but the tree in it, holds no descriptor from outside
but the archive and the pipe, and has only the capabilities to give files their owners, modes and attributes:
whatever an archive says, it says it about the inside.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import Any, NamedTuple

from .confine import MEMORY, Mounts, confine
from .headers import Members
from .refused import NeedsBelow, Refused
from .stream import Archive, Stream, decompressor
from .target import Tree
from .writing import Limits, Unpacking

FREE = "free some space on that file system"


class Job(NamedTuple):
    """What to do; `vsprov.store.unpacking` says what `whole`, `merge` and `below` mean."""

    target: str
    work: str
    below: list[str] | None  # topmost first
    whole: bool
    merge: bool
    parent: int
    limits: dict[str, int]


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    try:
        report(unpack(job))
    except Refused as error:
        report({"error": str(error), "hint": error.hint})
    except NeedsBelow as error:
        report({"needs_below": str(error)})
    except MemoryError:
        report({"error": f"it wants more than {MEMORY >> 20} MiB of memory to unpack"})
    except OSError as error:
        refusal = f"unpack: {error.filename or ''}: {error.strerror}"
        hint = FREE if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        report({"error": refusal if error.errno else f"it is damaged: {error}", "hint": hint})
    except Exception as error:
        # The archive is hostile input to the parsers of five formats, which raise whatever they meet.
        report({"error": f"it is damaged, or no tar archive: {error}"})
    os._exit(0)  # the thread that reads ahead may be in the middle of it


def unpack(job: Job) -> dict[str, Any]:
    limits = Limits(**job.limits)
    archive = Archive(0)
    opened = decompressor(archive.head)
    top = confine(Mounts(job.target, job.work, job.below or []), job.parent)
    stream = Stream(archive, opened(archive), limits.bytes, lambda read: report({"read": read}))
    tree = Tree(top, limits.depth, limits.path, alone=job.below is None)
    members = Members(stream, may_lack_end=not job.whole)
    Unpacking(tree, stream, limits, whole=job.whole, merge=job.merge, below=job.below).run(members)
    return {"sha256": archive.sha256.hexdigest(), "diff_id": stream.diff_id()}


def report(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")
