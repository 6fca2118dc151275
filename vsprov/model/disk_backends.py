"""The means by which the kernel limits the disks of servers, and volumes."""

from __future__ import annotations

PROJECT, QGROUP, IMAGE = "project", "qgroup", "image"
BACKENDS = (PROJECT, QGROUP, IMAGE)  # the best first
AUTO = "auto"  # instead of one of them: the best that the host supports
UNLIMITED = ""  # instead of one of them: no limit
