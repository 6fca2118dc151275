"""Steps that limit the disks of servers. In threads, because they wait for the disk of the host."""

from __future__ import annotations

from vsprov.engine.apply.register import carries_out
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.run.schedule import Work
from vsprov.errors import FailedError
from vsprov.model.disk_backends import IMAGE, PROJECT, QGROUP
from vsprov.plan.limits.pool_disk import LimitPool, ReleasePool
from vsprov.plan.servers.disk_steps import ForgetDisk, MakeDisk, MoveDisk, MoveDiskBack, ResizeDisk, ShareDisk
from vsprov.store import servers
from vsprov.store.disk.durable import is_full
from vsprov.store.disk.marks import Owner


def _is_quota(backend: str) -> bool:
    """Whether a limit is a quota, which the kernel changes at once."""
    return backend != IMAGE


def _make_quota(context: ApplyContext, step: MakeDisk) -> None:
    from vsprov.store.space import pools, project, subvolume

    folder, base = f"{context.instance.servers}/{step.server}", context.bases[step.server]
    shared = [pools.must_find(context.instance, step.pool).number] if step.pool else []
    if step.backend == QGROUP:
        subvolume.make(folder, base, step.space, shared)
    elif shared:
        project.join(folder, shared[0])
    else:
        project.limit(folder, base, step.space, step.inodes)


def _change_quota(context: ApplyContext, step: ResizeDisk) -> None:
    from vsprov.store.space import project, subvolume

    folder = f"{context.instance.servers}/{step.server}"
    if step.backend == PROJECT:
        project.limit(folder, context.bases[step.server], step.space, step.inodes)
    else:
        subvolume.limit(folder, step.space)


_TOO_SMALL = "choose a higher limit, or free some space on the file system of the state root"


@carries_out(MakeDisk)
def make_disk(context: ApplyContext, step: MakeDisk) -> Work:
    if _is_quota(step.backend):
        _make_quota(context, step)
    else:
        from vsprov.store.space import image

        folder = f"{context.instance.servers}/{step.server}"
        yield from context.threads.queue(lambda: image.make(folder, step.space, step.inodes))


@carries_out(ResizeDisk)
def resize_disk(context: ApplyContext, step: ResizeDisk) -> Work:
    if _is_quota(step.backend):
        _change_quota(context, step)
        return
    from vsprov.store.space import image

    folder = f"{context.instance.servers}/{step.server}"
    resize = image.grow if step.live else image.rebuild
    yield from context.threads.run(lambda: resize(folder, step.space))


@carries_out(MoveDisk)
def move_disk(context: ApplyContext, step: MoveDisk) -> Work:
    from vsprov.store.space import disks, filled
    from vsprov.store.written import replica

    instance, base = context.instance, context.bases[step.server]
    report = context.threads.progress(f"Server/{step.server}")

    def progress(done: int) -> None:
        report("copied", done, 0)

    def move() -> None:
        with disks.upper(f"{instance.servers}/{step.server}", base) as upper:

            def fill(making: str) -> None:
                replica.copy(upper, f"{making}/upper", f"Server/{step.server}: new disk", progress)

            limit = filled.Limit.of(instance, step)
            try:
                servers.prepare_disk(instance, step.server, base, fill, limit)
            except FailedError as error:
                if is_full(error):
                    raise FailedError(str(error), hint=_TOO_SMALL) from error
                raise
        servers.exchange_disk(instance, step.server)

    yield from context.threads.run(move)


@carries_out(MoveDiskBack)
def move_disk_back(context: ApplyContext, step: MoveDiskBack) -> Work:
    def move() -> None:
        servers.exchange_disk(context.instance, step.server)
        servers.forget_disk(context.instance, step.server)

    yield from context.threads.run(move)


@carries_out(ForgetDisk)
def forget_disk(context: ApplyContext, step: ForgetDisk) -> Work:
    yield from context.threads.queue(lambda: servers.forget_disk(context.instance, step.server))


@carries_out(ShareDisk)
def share_disk(context: ApplyContext, step: ShareDisk) -> Work:
    """In a thread, because btrfs may have to count anew what is used."""
    from vsprov.store.space import pools, subvolume

    shared = [pools.must_find(context.instance, step.pool).number] if step.pool else []
    folder = f"{context.instance.servers}/{step.server}"
    yield from context.threads.run(lambda: subvolume.share(folder, shared))


@carries_out(LimitPool)
def limit_pool(context: ApplyContext, step: LimitPool) -> None:
    from vsprov.store.space import pools

    owner = Owner.parse(step.owner)
    pools.limit(context.instance, step.pool, owner, step.backend, step.space, step.inodes)


@carries_out(ReleasePool)
def release_pool(context: ApplyContext, step: ReleasePool) -> Work:
    from vsprov.store.space import pools

    yield from context.threads.run(lambda: pools.release(context.instance, step.pool))
