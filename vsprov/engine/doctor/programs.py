"""Programs and modules that single features use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec

from vsprov.engine.doctor.finding import Finding
from vsprov.engine.guests import lxcfs
from vsprov.engine.guests.request import find_reaper
from vsprov.errors import HostError


def programs() -> Iterator[Finding]:
    if reaper := find_reaper():
        yield Finding("reaper", "ok", reaper)
    else:
        yield Finding(
            "reaper", "degraded", "neither catatonit nor tini found", "no init.reaper; apt install catatonit"
        )
    if lxcfs.files():
        yield Finding("lxcfs", "ok", lxcfs.mount_point())
    else:
        found = "does not answer" if lxcfs.mount_point() else "not mounted"
        todo = "start lxcfs" if shutil.which("lxcfs") else "apt install lxcfs"
        cost = f"free, top and uptime show the host in servers; {todo}, and restart them"
        yield Finding("lxcfs", "degraded", found, cost)
    if find_spec("zstandard"):
        yield Finding("zstd", "ok", "")
    else:
        yield Finding(
            "zstd", "degraded", "no zstandard module", "no images from .tar.zst; pip install zstandard"
        )
    from vsprov.store.sources import bootstrap

    try:
        yield Finding("bootstrap", "ok", bootstrap.find_program())
    except HostError as error:
        found, cost = str(error).rpartition(": ")[2], f"no source.bootstrap; {error.hint}"
        yield Finding("bootstrap", "degraded", found, cost)
