"""What the tests of this folder share."""

from tests.lab import lab, loop_disk, shared_lab

__all__ = ["lab", "loop_disk", "shared_lab"]
