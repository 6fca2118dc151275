"""What the tests of this folder share."""

from tests.e2e.builds import box
from tests.e2e.networks import shared_net
from tests.e2e.verbs import shop
from tests.lab import lab, loop_disk, shared_lab

__all__ = ["box", "lab", "loop_disk", "shared_lab", "shared_net", "shop"]
