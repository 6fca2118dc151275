"""The means by which the kernel limits the disks of servers, and volumes."""

from __future__ import annotations

PROJECT, QGROUP, IMAGE = "project", "qgroup", "image"
BACKENDS = (PROJECT, QGROUP, IMAGE)  # the best first
SHARED = (PROJECT, QGROUP)  # those that can limit several servers together
AUTO = "auto"  # instead of one of them: the best that the host supports
UNLIMITED = ""  # instead of one of them: no limit
# Inodes that are taken in an image before anything is written to it: those of ext4, upper/ and work/.
RESERVED = 16

NO_IMAGE = "an image belongs to one server, so the servers of a pool cannot share one"
HINT_IMAGE = "use project or qgroup, or a Quota with scope server"
