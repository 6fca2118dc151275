"""An instance of vsprov: its names on disk, in /run and in the cgroup hierarchies."""

from __future__ import annotations

import hashlib

from msgspec import Struct

from vsprov.plan.ranges import FIRST_ID, RANGE

DEFAULT = "vsprov"
RANGES_PER_SLOT = 4000
SLOTS = 16

# In the directory of a layer: the tree that servers see, the listing of what it contained when it was made,
# and during a dedupe a mark that the mtimes of its directories are changing.
TREE, LISTING, LINKING = "tree", "listing", "linking"
# In the directory of a server with a disk limit, see `store.space`. A server that has both uses the image.
DISK_IMAGE, DISK_SUBVOLUME = "disk.img", "disk"
DISK_OF_POOL = ".disk"  # how the names of files end that say what limits the disk of a pool
LOCK = "lock"  # in the run directory


class Instance(Struct, frozen=True):
    """`name` is also the name of the top cgroup in each hierarchy and of the directory in /run."""

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
    def networks(self) -> str:
        return f"{self.root}/networks"

    @property
    def pools(self) -> str:
        return f"{self.root}/pools"

    @property
    def volumes(self) -> str:
        return f"{self.root}/volumes"

    @property
    def copies(self) -> str:
        return f"{self.root}/copies"

    @property
    def downloads(self) -> str:
        return f"{self.root}/downloads"

    @property
    def transfers(self) -> str:
        return f"{self.root}/transfers"

    @property
    def folders(self) -> tuple[str, ...]:
        """The directories of the state root."""
        others = self.networks, self.pools, self.volumes, self.copies, self.transfers, self.downloads
        return *self.usual_folders, *others

    @property
    def usual_folders(self) -> tuple[str, ...]:
        """The directories of the state root that every instance has."""
        return self.servers, self.images, self.manifests, self.layers

    @property
    def lock(self) -> str:
        return f"{self.run}/{LOCK}"

    @property
    def first_range(self) -> int:
        """The id from which on this instance looks for ranges that are free.

        It is derived from the name, so that instances whose servers have no claims yet, because they were
        made by version 0.1.0, are unlikely to be in each other's way (`store.claims`).
        """
        if self.name == DEFAULT:
            return FIRST_ID
        slot = 1 + int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big") % (SLOTS - 1)
        return FIRST_ID + slot * RANGES_PER_SLOT * RANGE
