"""The steps that make, change and exchange the limited disks of servers."""

from __future__ import annotations

from vsprov.model.disk_backends import IMAGE, UNLIMITED
from vsprov.model.values.units import MAX, format_bytes, format_number
from vsprov.plan.step import Step

Room = tuple[int | None, int | None]  # bytes and inodes, None for no limit


class MakeDisk(Step, frozen=True):
    """Create the limited disk of a server, with nothing on it; `inodes` None for the default number. It
    counts in the limit of `pool`, "" for none.
    """

    server: str
    backend: str
    space: int
    inodes: int | None
    pool: str = ""

    def describe(self) -> str:
        return f"create the disk of {self.server} ({_described(self)})"


class ResizeDisk(Step, frozen=True):
    """Change the limits of a disk, with all that is on it; `live` while the server runs. 0 and None: no
    limit.

    `before` are the space and inodes of now. Nothing undoes it for an image: a file system that has grown
    shrinks only while it is not mounted.
    """

    server: str
    backend: str
    space: int
    inodes: int | None
    before: tuple[int, int | None]
    live: bool

    def describe(self) -> str:
        if self.backend == IMAGE:
            return f"resize the disk of {self.server} to {format_bytes(self.space)}"
        limits = [format_bytes(self.space)] if self.space else []
        limits += [f"{format_number(self.inodes)} inodes"] if self.inodes else []
        return f"limit the disk of {self.server} to {', '.join(limits) or MAX}"

    def undo(self) -> Step | None:
        if self.backend == IMAGE:
            return None
        now = (self.space, self.inodes)
        return ResizeDisk(self.server, self.backend, *self.before, now, self.live)


class MoveDisk(Step, frozen=True):
    """Move what a stopped server has written to a new disk of another sort, UNLIMITED for none in particular,
    which counts in the limit of `pool`, "" for none; `room` is what is left of that.

    It has the one or the other at any moment. The former disk remains until `ForgetDisk`.
    """

    server: str
    backend: str
    space: int
    inodes: int | None
    pool: str = ""
    room: Room = (None, None)

    def describe(self) -> str:
        if self.backend == UNLIMITED:
            return f"move the files of {self.server} to a disk without a limit"
        return f"move the files of {self.server} to a new disk ({_described(self)})"

    def undo(self) -> Step | None:
        return MoveDiskBack(self.server)


class MoveDiskBack(Step, frozen=True):
    """Give a stopped server the disk that it had before `MoveDisk`."""

    server: str

    def describe(self) -> str:
        return f"put back the former disk of {self.server}"


class ForgetDisk(Step, frozen=True):
    """Remove the disk that a server had before `MoveDisk`."""

    server: str

    def describe(self) -> str:
        return f"remove the former disk of {self.server}"


def _described(disk: MakeDisk | MoveDisk) -> str:
    shared = [f"in pool {disk.pool}"] if disk.pool else []
    return ", ".join([*([format_bytes(disk.space)] if disk.space else []), disk.backend, *shared])


class ShareDisk(Step, frozen=True):
    """Have what a server writes count in the quota group of a pool, "" for none; `before` is the one that it
    counts in now.
    """

    server: str
    pool: str
    before: str

    def describe(self) -> str:
        if self.pool:
            return f"count the disk of {self.server} in the limit of pool {self.pool}"
        return f"count the disk of {self.server} in no limit of a pool"

    def undo(self) -> Step | None:
        return ShareDisk(self.server, self.before, self.pool) if self.before != self.pool else None
