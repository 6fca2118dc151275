"""Where an instance of vsprov lives: its names on disk, in /run and below every cgroup hierarchy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

DEFAULT = "vsprov"
FIRST_ID = 524288  # the start of what useradd(8) leaves to subordinate ids
RANGE = 65536
RANGES_PER_SLOT = 4000
SLOTS = 16

# What is in the folder of a layer: what servers see, what that held when it was made, and, while files in it
# are being made one with others, a mark that the times of its directories are in flux.
TREE, LISTING, LINKING = "tree", "listing", "linking"


@dataclass(frozen=True, slots=True)
class Instance:
    """`name` is also the cgroup below each hierarchy's mount and the prefix of run directory and links."""

    name: str = DEFAULT
    root: str = f"/var/lib/{DEFAULT}"

    @property
    def run(self) -> str:
        return f"/run/{self.name}"

    @property
    def servers(self) -> str:
        return f"{self.root}/servers"

    @property
    def images(self) -> str:
        return f"{self.root}/images"

    @property
    def manifests(self) -> str:
        return f"{self.root}/manifests"

    @property
    def layers(self) -> str:
        return f"{self.root}/layers"

    @property
    def downloads(self) -> str:
        return f"{self.root}/downloads"

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders of the state root, that of downloads last."""
        return self.servers, self.images, self.manifests, self.layers, self.downloads

    @property
    def lock(self) -> str:
        return f"{self.run}/lock"

    @property
    def first_range(self) -> int:
        """The lowest id this instance hands out.

        Instances cannot see each other's servers, so every instance but the default one starts in a slot of
        its own that its name picks; two names may share a slot, the default instance shares with none.
        """
        if self.name == DEFAULT:
            return FIRST_ID
        slot = 1 + int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big") % (SLOTS - 1)
        return FIRST_ID + slot * RANGES_PER_SLOT * RANGE
