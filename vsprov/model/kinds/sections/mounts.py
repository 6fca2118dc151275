"""Additional mounts of a server: `mounts`."""

from __future__ import annotations

from typing import Any, Literal

from vsprov.model.fields import Section, value
from vsprov.model.values import patterns
from vsprov.model.values.value_kinds import BYTES


def _parse_id_map(raw: Any) -> str:
    return {True: "host", False: "none"}[raw] if isinstance(raw, bool) else str(raw)


class Virtualize(Section):
    """What a server sees of itself in place of the host."""

    proc: Literal["off"] | None = value(
        None,
        doc="auto: if lxcfs runs on the host, /proc/meminfo, /proc/cpuinfo, /proc/stat, /proc/uptime, "
        "/proc/loadavg, /proc/swaps and /proc/diskstats show the server and its limits, and so do free, top "
        "and uptime. off: they show the host. Defaults to auto.",
        schema={"enum": ["auto", "off"]},
        parse=lambda given: None if given == "auto" else given,
    )


class Mount(Section):
    """A file system mounted in a server."""

    type: Literal["bind", "tmpfs", "volume"] = value(
        doc="bind: a file or directory of the host. tmpfs: a file system in memory, empty at each start. "
        "volume: a volume, which is mounted and unmounted while the server runs (cost: live), unless "
        "security.readOnlyRoot is set or another mount is below its target."
    )
    target: str = value(doc="Mount point in the server. Created if missing.", schema=patterns.ABSOLUTE)
    source: str | None = value(
        None,
        doc="For bind: the file or directory on the host. For volume: the name of the volume.",
        schema=patterns.PATH_OR_NAME,
        only=("type", "bind", "volume"),
    )
    read_only: bool = value(False, doc="Mount read-only, including the mounts below.")
    recursive: bool = value(True, doc="For bind: include the mounts below the source.", only=("type", "bind"))
    id_map: Literal["auto", "host", "none"] = value(
        "auto",
        doc="For bind: how user and group IDs are mapped, if the file system supports idmapped mounts. "
        "auto: the owner of the source is root in the server, and files of the server's other users are "
        "stored with IDs of its range; a source that root owns is mapped as with host, and refused if it is "
        "writable and other users of the host can reach it. host: IDs are the same as on the host, so the "
        "server's root can create setuid-root programs in a writable source. none: files are stored with IDs "
        "of the server's range. true means host, false means none.",
        schema={"type": ["string", "boolean"], "enum": ["auto", "host", "none", True, False]},
        parse=_parse_id_map,
        only=("type", "bind"),
    )
    size: int | None = value(
        None,
        doc="For tmpfs: maximum size. Defaults to half of the memory.",
        kind=BYTES,
        only=("type", "tmpfs"),
    )
    mode: str = value(
        "1777",
        doc="For tmpfs: permissions of its root directory, in octal, quoted.",
        schema=patterns.file_mode("1777"),
        only=("type", "tmpfs"),
    )
