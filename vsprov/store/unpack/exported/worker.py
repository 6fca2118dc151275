"""Unpacks an exported server in a separate process that is confined to the directory it fills.

Descriptor 0 is the archive, JOB the `Job` as JSON. It prints lines of JSON: {"read"}, the bytes of the
archive read so far; {"header"} and {"manifest"} as texts; {"opaque"}, paths of opaque directories; at the end
{"files", "bytes"} or {"error", "hint"}.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from ..confine import Mounts, confine
from ..headers import Members
from ..refused import Refused
from ..stream import Archive, decompressor
from ..target import Place, Tree
from ..worker import failure, report
from ..writing import Limits
from .layout import DEPTH, HEADER, LENGTH
from .summed import SummedStream
from .writing import Exported

# Besides the files, of headers and padding; a bomb is found by the size that the header announces.
MOST_BYTES = 1 << 62
AT_ONCE = 1000  # paths in a message


class Job(NamedTuple):
    target: str
    parent: int


def main(text: str) -> None:
    job = Job(**json.loads(text))
    try:
        report(_unpack(job))
    except Exception as error:
        report(failure(error, "unpack"))
    os._exit(0)  # without waiting for the thread that reads ahead


class _Tree(Tree):
    """A tree that does not remember what was made in it: only whiteouts of layers depend on that, and a
    server may have many more files than an image.
    """

    def change(self, place: Place, name: str) -> None:
        pass

    def forget(self) -> None:
        super().forget()
        self.made.clear()


def _unpack(job: Job) -> dict[str, Any]:
    archive = Archive(0)
    opened = decompressor(archive.head)
    confine(Mounts(job.target, "", []), job.parent)
    stream = SummedStream(archive, opened(archive), MOST_BYTES, lambda read: report({"read": read}))
    tree = _Tree(None, DEPTH, LENGTH, alone=False, in_use=True)
    unpacking = Exported(tree, stream, Limits(0, 0, DEPTH, LENGTH), whole=True, merge=False, below=())
    for part, text in unpacking.documents(Members(stream, may_lack_end=False)):
        if part == HEADER:
            parts = _parts(text)
            unpacking.announce([path for path, _, _ in parts])
            files, size = sum(each[1] for each in parts), sum(each[2] for each in parts)
            unpacking.limits = Limits(files, size, DEPTH, LENGTH)
        report({"header" if part == HEADER else "manifest": text.decode("utf-8", "surrogateescape")})
    stream.diff_id()  # reads what follows, so that the sender is not interrupted
    for start in range(0, len(unpacking.opaque), AT_ONCE):
        report({"opaque": unpacking.opaque[start : start + AT_ONCE]})
    return {"files": unpacking.entries, "bytes": unpacking.bytes}


def _parts(text: bytes) -> list[tuple[str, int, int]]:
    """(path, number of files, bytes) of the parts in the header; who has started this process checks it."""
    try:
        return [
            (str(each["path"]), int(each["files"]), int(each["bytes"])) for each in json.loads(text)["parts"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refused("it is not an exported server, or damaged") from error
