"""What the file systems of the host support: overlays, idmapped mounts, attributes of files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from vsprov.engine.doctor.finding import Finding, attempt, in_child
from vsprov.kernel import idmap, overlay, paths, syscall
from vsprov.model.disk_backends import BACKENDS, QGROUP, SHARED
from vsprov.store.instance import Instance
from vsprov.store.space import disks, subvolume


def file_systems(instance: Instance) -> Iterator[Finding]:
    """Overlays, and the file systems of the state root and of /usr."""
    folder = paths.existing(instance.root)
    yield _overlay()
    yield _lower_layers()
    yield _idmap("state root", folder, "; there can be no volumes")
    yield _idmap("/usr", "/usr")
    yield _trusted(folder)
    yield _upper(folder)
    lacks = disks.lacks(instance.root)
    yield _disk_limits(instance.root, lacks)
    yield _limits_of_pools(lacks)


def _overlay() -> Finding:
    """Mount an overlay on a tmpfs, in a mount namespace that ends with the probe."""

    def work() -> None:
        syscall.unshare(syscall.CLONE_NEWNS)
        syscall.mount("none", "/", None, syscall.MS_REC | syscall.MS_PRIVATE)
        syscall.mount("tmpfs", "/tmp", "tmpfs", 0)
        for name in ("lower", "upper", "work", "root"):
            os.mkdir(f"/tmp/{name}")
        syscall.mount(
            "overlay", "/tmp/root", "overlay", 0, "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"
        )

    return attempt("overlay", lambda: in_child(work), "servers cannot use images; try modprobe overlay")


def _lower_layers() -> Finding:
    def probe() -> None:
        context = syscall.fsopen("overlay")
        try:
            syscall.fsconfig(context, syscall.FSCONFIG_SET_STRING, "lowerdir+", b"/usr")
        finally:
            os.close(context)

    cost = "images of more than about 60 layers cannot be mounted"
    return attempt("overlay lowerdir+", probe, cost, "degraded")


def _idmap(what: str, path: str, more: str = "") -> Finding:
    """Whether the file system of a path supports idmapped mounts, tested with a detached mount."""
    kind = overlay.file_system(path)

    cost = f"{path}: files appear as owned by nobody in servers{more}"
    finding = attempt(f"idmapped mounts of {what}", lambda: idmap.refuse_unmappable(path), cost, "degraded")
    return Finding(finding.feature, finding.state, f"{kind} {finding.found}".strip(), finding.cost)


def _trusted(folder: str) -> Finding:
    """Whether files can have trusted.* extended attributes, tested with an unnamed file."""

    def probe() -> None:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.setxattr(fd, "trusted.vsprov.probe", b"1")
        finally:
            os.close(fd)

    cost = f"{folder}: required for owner marks and overlay; choose another --root"
    return attempt("trusted attributes of state root", probe, cost)


def _upper(folder: str) -> Finding:
    """Whether the upper layers of servers can be in the file system of the state root."""
    cost = f"{folder}: required for what servers write; choose another --root"
    finding = attempt("upper layers in state root", lambda: overlay.refuse_upper(folder), cost)
    return replace(finding, found=f"{overlay.file_system(folder)} {finding.found}".strip())


def _disk_limits(root: str, lacks: Mapping[str, str]) -> Finding:
    """The backend that `auto` chooses, and why not a better one."""
    chosen = next((name for name in BACKENDS if not lacks[name]), None)
    whys = "; ".join(f"{name}: {lack}" for name, lack in lacks.items() if lack)
    if chosen == QGROUP and (doubt := subvolume.doubt(root)):
        return Finding("disk limits", "degraded", f"backend {chosen}", doubt)
    if chosen is None:
        return Finding("disk limits", "degraded", whys, "disk.space and disk.inodes cannot be used")
    return Finding("disk limits", "ok", f"backend {chosen}" + (f" ({whys})" if whys else ""))


def _limits_of_pools(lacks: Mapping[str, str]) -> Finding:
    """The backend that limits what several servers write together."""
    chosen = next((name for name in SHARED if not lacks[name]), None)
    if chosen:
        return Finding("disk limits of pools", "ok", f"backend {chosen}")
    whys = "; ".join(f"{name}: {lacks[name]}" for name in SHARED)
    return Finding("disk limits of pools", "degraded", whys, "disk of a Quota with scope pool cannot be used")
