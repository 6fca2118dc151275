"""What the tests of this folder share."""

from tests.btrfs import btrfs_disk, quota_lab
from tests.e2e.builds import box
from tests.e2e.networks import shared_net
from tests.e2e.transfers import other
from tests.e2e.verbs import shop
from tests.lab import lab, loop_disk, shared_lab
from tests.systems import debian_archive

__all__ = [
    "box",
    "btrfs_disk",
    "debian_archive",
    "lab",
    "loop_disk",
    "other",
    "quota_lab",
    "shared_lab",
    "shared_net",
    "shop",
]
