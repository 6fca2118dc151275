"""A state root on a disk that loses its power: what no one has flushed is gone, as is what lies in memory.

The disk is a file with a file system by loop(4). What the file holds at a moment is what the file system has
written by then; a clone of it, which is made at once (ioctl_ficlone(2)), is the disk after a power cut. The
file system writes only what it must: a flush, and what its journal commits with that.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import leaks
from tests.e2e.reboot import lose_power
from tests.fault.killing import run
from tests.instance import own_instance
from tests.kernel.layers import clone, disk, mounted
from tests.lab import Lab, wait_until
from vsprov.store.instance import Instance

# Not once in a while, and not what replaces another file either: the kernel would hide that we do not flush.
# A mount namespace that was made meanwhile may hold the disk from before the power cut, and XFS mounts no
# second file system with its UUID unless told to.
OPTIONS = {"ext4": "commit=900,noauto_da_alloc", "btrfs": "commit=900", "xfs": "nouuid"}
SIZE = {"ext4": 512 << 20, "btrfs": 1 << 30, "xfs": 512 << 20}
FLAGS = {"ext4": ("-J", "size=8"), "btrfs": (), "xfs": ()}


@dataclass(slots=True)
class Disk:
    """A disk that is mounted on `point`; `prepared` is what is on it before each power cut."""

    kind: str
    folder: Path

    @property
    def point(self) -> Path:
        return self.folder / "mounted"

    @property
    def current(self) -> Path:
        return self.folder / "current"

    @property
    def prepared(self) -> Path:
        return self.folder / "prepared"

    def make(self) -> None:
        self.point.mkdir(parents=True)
        with open(self.current, "wb") as file:
            file.truncate(SIZE[self.kind])
        subprocess.run([f"mkfs.{self.kind}", "-q", *FLAGS[self.kind], self.current], check=True)
        self.mount()
        if self.kind == "btrfs":
            subprocess.run(["btrfs", "quota", "enable", self.point], check=True)

    def mount(self) -> None:
        options = f"loop,{OPTIONS[self.kind]}"
        subprocess.run(["mount", "-t", self.kind, "-o", options, self.current, self.point], check=True)

    def unmount(self) -> None:
        """Processes of what was killed may have to end yet, and the kernel to release their loop devices."""
        wait_until(lambda: subprocess.run(["umount", self.point], capture_output=True).returncode == 0)


@dataclass(slots=True)
class Power:
    """A lab on such a disk."""

    lab: Lab
    disk: Disk

    @property
    def exported(self) -> Path:
        """A file that is no part of the state root, and on its disk."""
        return self.disk.point / "exported"

    def prepared(self) -> None:
        """What is there now is there before each power cut."""
        self._down()
        self.disk.current.rename(self.disk.prepared)

    def begin(self) -> None:
        """It is as prepared, and nothing runs."""
        self._down()
        clone(self.disk.prepared, self.disk.current)
        self.disk.mount()

    def cut_after(self, work: Callable[[Instance], object], number: int) -> int:
        """Begin, and cut the power after so many calls of the kernel, or, with 0, at the end of the work; how
        that has ended.
        """
        self.begin()
        ended = run(self.lab, work, number)
        after = self.disk.folder / "after"
        clone(self.disk.current, after)
        self._down()
        after.rename(self.disk.current)
        self.disk.mount()
        return ended

    def _down(self) -> None:
        if leaks.groups(self.lab.vsprov.name):
            lose_power(self.lab)
        if self.disk.current.exists():
            self.disk.unmount()


@contextmanager
def on_disk(kind: str, folder: Path) -> Iterator[Power]:
    """A lab on a disk of this kind, in memory."""
    with mounted("tmpfs", "tmpfs", folder / "memory") as memory, disk("btrfs", memory, 4 << 30) as disks:
        made = Disk(kind, disks / kind)
        made.make()
        try:
            with own_instance(made.point) as instance:
                yield Power(Lab(instance), made)
        finally:
            made.unmount()
            wait_until(lambda: not leaks.loops(disks))
