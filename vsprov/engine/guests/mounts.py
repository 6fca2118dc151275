"""The mounts of a request to the spawner: those of the manifest, of the image, and the server's own files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vsprov.engine.guests import lxcfs
from vsprov.model.kinds.sections.mounts import Mount as MountSpec
from vsprov.model.kinds.server import Server
from vsprov.model.values.styles import is_system
from vsprov.model.values.units import MAX
from vsprov.store import machine_id, names_files
from vsprov.store.hostimage import Bind as HostBind
from vsprov.store.instance import Instance

if TYPE_CHECKING:
    from vsprov.engine.guests.host_sources import OpenSources
    from vsprov.guest.wire import Bind, File, Mount, Tmpfs


RESOLVER = "/etc/resolv.conf"
# systemd refuses to reload its units with less than 16 MiB free in /run: RELOAD_DISK_SPACE_MIN.
_SMALLEST_RUN = 32 << 20


def of_server(
    spec: Server,
    binds: Sequence[HostBind],
    sources: OpenSources,
    instance: Instance,
    *,
    folder: str,
    base: int,
    own_id: str,
) -> list[Mount]:
    """The mounts of a server, in their order; `binds` are those of its image.

    `folder`: its directory; `base`: its first host id; `own_id`: its machine ID.
    """
    return [
        *(_virtual_files() if spec.virtualize.proc is None else ()),
        *_image_binds(binds, sources),
        *([_run(spec)] if is_system(spec.init.style) else ()),
        *_names_files(folder, spec, base),
        *_hostname(spec),
        _machine_id(own_id),
        *(_mount(mount, sources, instance) for mount in spec.mounts),
    ]


def _virtual_files() -> list[Bind]:
    """The mounts of what lxcfs shows of the server in place of the host."""
    return [
        {
            **_bind(source, target, read_only=True, recursive=False, idmap=False),
            "over_kernel": True,
        }
        for source, target in lxcfs.files()
    ]


def _run(spec: Server) -> Tmpfs:
    """/run of a system server, empty: what is left there of an earlier boot would mislead its init.

    Its size is what systemd gives it, a fifth of the memory of the host, or half of what the server may use.
    """
    limit = spec.resources.get("memory.max", MAX)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "type": "tmpfs",
        "target": "/run",
        "read_only": False,
        "nosuid": True,
        "nodev": True,
        "size": memory // 5 if limit == MAX else max(int(limit) // 2, _SMALLEST_RUN),
        "mode": 0o755,
    }


def of_build(
    binds: Sequence[HostBind], sources: OpenSources, host_network: bool, resolver: str | None
) -> list[Mount]:
    """The mounts of a build step on an image with these binds; `resolver` is its /etc/resolv.conf."""
    mounts: list[Mount] = [*_image_binds(binds, sources)]
    if resolver is not None:
        mounts.append(_file(RESOLVER, resolver))
    elif host_network and os.path.isfile(RESOLVER):
        mounts.append(_bind(RESOLVER, RESOLVER, read_only=True, recursive=False, idmap=True))
    return mounts


def _image_binds(binds: Sequence[HostBind], sources: OpenSources) -> list[Bind]:
    """The mounts of an image that consists of the host's own files; programs there may be setuid."""
    return [
        {
            "type": "bind",
            "source": sources.image(bind),
            "target": bind.target,
            "read_only": True,
            "nosuid": False,
            "nodev": True,
            "recursive": True,
            "idmap": True,
            "owner": None,
        }
        for bind in binds
    ]


def _bind(
    source: str,
    target: str,
    *,
    read_only: bool,
    recursive: bool,
    idmap: bool,
    owner: tuple[int, int] | None = None,
) -> Bind:
    return {
        "type": "bind",
        "source": source,
        "target": target,
        "read_only": read_only,
        "nosuid": True,
        "nodev": True,
        "recursive": recursive,
        "idmap": idmap,
        "owner": owner,
    }


def _names_files(folder: str, spec: Server, base: int) -> list[Bind]:
    """The mounts of the server's own /etc/hosts and the like; mounts of the manifest may cover them.

    They replace links: an image with systemd-resolved has one to /run, which may be covered.
    """
    files = names_files.prepare(folder, spec.hostname, base, interfaces=bool(spec.interfaces))
    return [
        {
            **_bind(
                f"{folder}/{file}",
                names_files.TARGETS[file],
                read_only=spec.names_files_are_read_only,
                recursive=False,
                idmap=False,
            ),
            "over_link": True,
        }
        for file in files
    ]


def _hostname(spec: Server) -> list[File]:
    """The mount of /etc/hostname, where an init would set another name by that of the image. Servers with
    interfaces have a file of their own there.
    """
    if spec.interfaces or not is_system(spec.init.style):
        return []
    return [_file("/etc/hostname", f"{spec.hostname}\n")]


def _machine_id(own: str) -> File:
    """The mount of the server's own /etc/machine-id."""
    return _file(machine_id.TARGET, f"{own}\n")


def _file(target: str, content: str) -> File:
    return {
        "type": "file",
        "target": target,
        "read_only": True,
        "nosuid": True,
        "nodev": True,
        "content": content,
    }


def _mount(mount: MountSpec, sources: OpenSources, instance: Instance) -> Mount:
    if mount.type == "tmpfs":
        return {
            "type": "tmpfs",
            "target": mount.target,
            "read_only": mount.read_only,
            "nosuid": True,
            "nodev": True,
            "size": mount.size,
            "mode": int(mount.mode, 8),
        }
    if mount.type == "volume":
        source = sources.volume(instance, mount.source or "")
        bind = _bind(source, mount.target, read_only=mount.read_only, recursive=False, idmap=True)
        return {**bind, "tree": True}
    opened = sources.mount(mount)
    return _bind(
        opened.path,
        mount.target,
        read_only=mount.read_only,
        recursive=mount.recursive,
        idmap=opened.id_map.host,
        owner=opened.id_map.owner,
    )
