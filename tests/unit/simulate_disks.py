"""The directories of servers, what limits their disks, and those of pools, that steps can be done to."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from tests.unit.simulate_networks import Refused
from vsprov.model.kinds.server import Server
from vsprov.plan.limits.disk import DiskLimit
from vsprov.plan.limits.pool_disk import LimitPool, ReleasePool
from vsprov.plan.seen_disk import SeenDisk
from vsprov.plan.servers.disk_steps import ForgetDisk, MakeDisk, MoveDisk, MoveDiskBack, ResizeDisk, ShareDisk
from vsprov.plan.step import Step


@dataclass
class Directory:
    owner: str
    applied: str | None
    id_base: int
    written: bool = False
    stopped: str = ""
    disk: SeenDisk | None = None
    former: SeenDisk | None = None  # until it is forgotten
    loose: bool = False  # it has written where nothing limits it


@dataclass
class Disks:
    """What limits the disks of pools."""

    pools: dict[str, SeenDisk] = field(default_factory=dict)

    def copy(self) -> Disks:
        return Disks(dict(self.pools))

    def do(
        self, step: Step, directories: Mapping[str, Directory], running: Container[str], *, grow: bool
    ) -> bool:
        """Bring about what a step says, or raise Refused; False if it is about something else. `grow`: a file
        system can grow while it is mounted.
        """
        if isinstance(step, LimitPool | ReleasePool):
            self._do_to_pool(step, directories)
            return True
        if not isinstance(step, ForgetDisk | MakeDisk | MoveDisk | MoveDiskBack | ResizeDisk | ShareDisk):
            return False
        directory, runs = directories[step.server], step.server in running
        disk = directory.disk
        match step:
            case MakeDisk(_, backend):
                if backend == "image" and (runs or disk):
                    raise Refused(f"{step.describe()}: it runs, or has one")
                directory.disk = self._new(step)
                directory.written = False
            case MoveDisk(_, backend):
                if runs:
                    raise Refused(f"{step.describe()}: it runs")
                directory.former, directory.disk = disk, self._new(step) if backend else None
                directory.loose = directory.written and not directory.disk
            case MoveDiskBack():
                directory.disk = directory.former
            case ForgetDisk():
                directory.former = None
            case ShareDisk(_, pool):
                assert disk and disk.backend == "qgroup"
                directory.disk = replace(disk, pools=self.pools[pool].pools if pool else ())
            case ResizeDisk():
                directory.disk = self._resized(step, disk, runs=runs, grow=grow)
        return True

    def _new(self, step: MakeDisk | MoveDisk) -> SeenDisk:
        made = SeenDisk(step.backend, step.space, step.inodes, file_system=step.space)
        if not step.pool:
            return made
        shared = self.pools[step.pool]
        if shared.backend != step.backend or (step.backend == "project" and (step.space or step.inodes)):
            raise Refused(f"{step.describe()}: the pool cannot limit it like this")
        return replace(made, pools=shared.pools)

    def _resized(self, step: ResizeDisk, disk: SeenDisk | None, *, runs: bool, grow: bool) -> SeenDisk | None:
        assert disk and disk.space == step.before[0]
        if step.backend != "image":
            is_left = step.space or step.inodes or disk.pools or disk.backend == "qgroup"  # a subvolume
            return replace(disk, space=step.space, inodes=step.inodes) if is_left else None
        if step.live != runs:
            raise Refused(f"{step.describe()}: it runs, or does not")
        grows = disk.file_system < step.space and grow
        if runs and disk.file_system != step.space and not grows:
            raise Refused(f"{step.describe()}: its file system is mounted")
        return replace(disk, space=step.space, file_system=step.space)

    def _do_to_pool(self, step: LimitPool | ReleasePool, directories: Mapping[str, Directory]) -> None:
        before = self.pools.pop(step.pool, None)
        if isinstance(step, LimitPool):
            highest = max((number for disk in self.pools.values() for number in disk.pools), default=0)
            is_kept = before and before.backend == step.backend
            numbers = before.pools if before and is_kept else (highest + 1,)
            self.pools[step.pool] = SeenDisk(step.backend, step.space, step.inodes, pools=numbers)
            return
        used = [each.disk.pools for each in directories.values() if each.disk]
        if before is None or before.pools in used:
            raise Refused(f"{step.describe()}: it has none, or servers are in it")

    def refuse_start(self, name: str, spec: Server, disk: SeenDisk | None) -> None:
        """Raise Refused if a server that starts is not limited as it should be."""
        own, shared = DiskLimit.of(spec.resources), self.pools.get(spec.quota or "")
        if own and not disk:
            raise Refused(f"{name} has no limited disk")
        if not own and disk and (disk.space or disk.inodes):
            raise Refused(f"{name} has a limited disk")
        if disk and disk.pools and (not shared or disk.pools != shared.pools):
            raise Refused(f"{name} counts in the limit of a pool that it is not in")
        if shared and (shared.space or shared.inodes) and not (disk and disk.pools):
            raise Refused(f"{name} does not count in the limit of its pool")
