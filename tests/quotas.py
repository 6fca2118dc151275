"""What the kernel keeps of limits of disks, seen without the help of vsprov."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from struct import unpack_from

from vsprov.kernel import syscall
from vsprov.store.space.project import is_of_pool

_NEXT = 0x800009 << 8 | 2  # Q_GETNEXTQUOTA of projects


def projects(folder: Path) -> dict[int, tuple[int, int, int]]:
    """{project: (limit in bytes, limit of inodes, inodes in use)} of those that have any."""
    found: dict[int, tuple[int, int, int]] = {}
    fd, number = os.open(folder, os.O_RDONLY), 1
    try:
        while True:
            data = bytearray(72)
            syscall.quotactl_fd(fd, _NEXT, number, data)
            blocks, _, _, inodes, _, used = unpack_from("6Q", data)
            (number,) = unpack_from("I", data, 68)
            if blocks or inodes or used:
                found[number] = (blocks << 10, inodes, used)
            number += 1
    except FileNotFoundError:
        return found
    finally:
        os.close(fd)


def groups(folder: Path) -> dict[str, list[str]]:
    """{quota group of a pool, 1/NUMBER: the servers whose subvolumes are in it, "-" for none, and its limit}
    of the btrfs at `folder`.
    """
    subprocess.run(["btrfs", "filesystem", "sync", folder], check=True, capture_output=True)
    words = ["btrfs", "qgroup", "show", "-c", "-r", "--raw", folder]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in said.splitlines()[2:]]
    paths = {row[0]: Path(row[-1]).parent.name for row in rows if "/" in row[-1]}
    return {
        row[0]: [*sorted(paths.get(one, one) for one in row[4].split(",")), row[3]]
        for row in rows
        if row[0].startswith("1/") and is_of_pool(int(row[0].partition("/")[2]))
    }
