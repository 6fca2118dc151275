"""What limits the disk of a server, a volume or a pool, as it was observed."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

from vsprov.model.disk_backends import IMAGE, PROJECT, RESERVED


class SeenDisk(Struct, frozen=True):
    """What limits what a server writes, by which backend (`disk.backend`), in bytes.

    `space` is the limit, `inodes` the number of inodes that was asked for, None for none in particular.
    `used` and `used_inodes` of `all_inodes` are taken, None if inodes are not counted. `file_system` is the
    size of that in an image, and `attached` whether the server, which runs, has it mounted, `read_only` if
    only for reading. `problem` is why it cannot be used, "" if it can. `pools` are the numbers of the
    projects or quota groups that it is in with others of a pool, 0 for a part that is in none; of a pool, its
    own.
    """

    FIGURES: ClassVar = ("used", "used_inodes")  # change all the time, and no plan depends on them

    backend: str
    space: int
    inodes: int | None = None
    used: int = 0
    used_inodes: int | None = 0
    all_inodes: int | None = 0
    file_system: int = 0
    attached: bool = False
    read_only: bool = False
    problem: str = ""
    pools: tuple[int, ...] = ()

    @property
    def written_inodes(self) -> int:
        """The inodes that would be in use on another disk, at least; 0 if they are not counted."""
        reserved = RESERVED if self.backend == IMAGE else 0
        return max(0, (self.used_inodes or 0) - reserved)

    @property
    def counted(self) -> bool:
        """Whether what it uses is known. In the project of a pool, all servers are counted together."""
        return self.backend != PROJECT or self.used_inodes is not None
