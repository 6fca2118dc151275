"""Mounting and unmounting volumes in running servers."""

from __future__ import annotations

import errno
import os

from vsprov.engine.run.context import ApplyContext
from vsprov.engine.servers.alive import running
from vsprov.engine.volumes.mounted import Found, VolumeMounts
from vsprov.errors import StepError, reason
from vsprov.kernel import live_mount
from vsprov.model import fields
from vsprov.model.kinds.server import Server
from vsprov.model.values.styles import is_system
from vsprov.plan.aspects.mounts import ChangeVolume
from vsprov.store.volumes import directory

_HINTS = {
    errno.EXDEV: "remove the link that the server has there, or choose another target",
    errno.ENOTDIR: "remove what the server has there, or choose another target",
    errno.EROFS: "the target does not exist, and cannot be created in a file system that is read-only",
}


def change(context: ApplyContext, step: ChangeVolume) -> None:
    """Carry out a step, as far as an interrupted apply has not done it."""
    with running(context, step.server) as pid:
        now = _find(context, step, pid)
        if now and not (step.after and now.volume == step.after[0]):
            _unmount(step, pid, now)
            now = None
        if not step.after:
            return
        read_only = step.after[1] == "ro"
        if now is None:
            _mount(context, step, pid, read_only)
        elif now.read_only != read_only and not _set_read_only(step, pid, now, read_only):
            _unmount(step, pid, now)
            _mount(context, step, pid, read_only)


def _find(context: ApplyContext, step: ChangeVolume, pid: int) -> Found | None:
    """The volume that is mounted at the target now."""
    known = VolumeMounts(context.instance)
    found = known.find(pid) or []
    specs = [fields.write(context.wanted[f"Server/{step.server}"].spec)]
    if (seen := context.observed.servers.get(step.server)) and seen.applied:
        specs.append(seen.applied["spec"])
    every = (known.by_target(found, spec).get(step.target) for spec in specs)
    return next((one for one in every if one), None)


def _mount(context: ApplyContext, step: ChangeVolume, pid: int, read_only: bool) -> None:
    name, spec = step.after[0], context.wanted[f"Server/{step.server}"].spec
    assert isinstance(spec, Server)
    allowed = {"/", "/dev/shm", *(mount.target for mount in spec.mounts)}
    if is_system(spec.init.style):
        allowed.add("/run")
    try:
        tree = directory.tree(context.instance, name)
    except OSError as error:
        raise StepError(f"mount volume {name}: {reason(error)}") from error
    try:
        owner = context.bases[step.server]
        live_mount.mount_tree(pid, tree, step.target, owner, read_only=read_only, on=allowed)
    except OSError as error:
        message = f"mount volume {name} at {step.target}: {reason(error)}"
        hint = _HINTS.get(error.errno or 0, "")
        raise StepError(message, hint=hint) from error
    finally:
        os.close(tree)


def _unmount(step: ChangeVolume, pid: int, now: Found) -> None:
    try:
        live_mount.unmount(pid, now.point, now.number)
    except OSError as error:
        raise _failed(step, f"unmount volume {now.volume} from {now.point}", error) from error


def _set_read_only(step: ChangeVolume, pid: int, now: Found, read_only: bool) -> bool:
    """False if it is locked read-only, as in servers that may mount; see `vsprov.guest.spawner.locking`."""
    try:
        live_mount.set_read_only(pid, now.point, now.number, read_only)
        return True
    except OSError as error:
        if error.errno == errno.EPERM and not read_only:
            return False
        how = "read-only" if read_only else "writable"
        raise _failed(step, f"make volume {now.volume} at {now.point} {how}", error) from error


def _failed(step: ChangeVolume, what: str, error: OSError) -> StepError:
    busy = error.errno == errno.EBUSY
    why = "a process of the server uses it" if busy else reason(error)
    hint = "it has begun to do so after the plan was made: apply again, which plans a restart" if busy else ""
    return StepError(f"{what}: {why}", hint=hint)
