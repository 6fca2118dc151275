"""The processes of all servers, for `ps` and `top`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from msgspec import Struct

from vsprov.kernel import cgroup, proc
from vsprov.plan.ranges import RANGE
from vsprov.store import servers as store
from vsprov.store.disk import folders, marks
from vsprov.store.instance import Instance


class ServerProcess(Struct, frozen=True):
    """A process of a server.

    `inner` is its pid and `user` its user id in the server, None for an id outside its range. `state` is the
    letter of proc(5), `resident` in bytes, `seconds` the CPU time. `command` is its command line, or its name
    in brackets.
    """

    server: str
    pid: int
    inner: int
    user: int | None
    state: str
    resident: int
    seconds: float
    command: str


def servers(instance: Instance) -> list[str]:
    """The sorted names of all servers that have a group or a directory."""
    top = cgroup.find().directory("", instance.name)
    return sorted({name for name, _ in _homes(top)} | set(folders.names(instance.servers)))


def listing(instance: Instance) -> list[ServerProcess]:
    """All processes, sorted by server and pid, without those that exit in the meantime."""
    out = []
    for server, home in _homes(cgroup.find().directory("", instance.name)):
        directory = store.find(instance, server)
        base = directory.id_base if directory else None
        out += [found for pid in cgroup.all_processes(home) if (found := _look(server, pid, base))]
    return sorted(out, key=lambda one: (one.server, one.pid))


def _homes(top: str) -> Iterator[tuple[str, str]]:
    """(server, cgroup directory) of all servers with an owner mark, including those in pools."""
    for name in cgroup.children(top):
        role = marks.role_of(f"{top}/{name}")
        if role == "server":
            yield name, f"{top}/{name}"
        elif role == "pool":
            for child in cgroup.children(f"{top}/{name}"):
                if marks.role_of(f"{top}/{name}/{child}") == "server":
                    yield child, f"{top}/{name}/{child}"


def _look(server: str, pid: int, base: int | None) -> ServerProcess | None:
    status, stat, words = (proc.read(f"/proc/{pid}/{name}") for name in ("status", "stat", "cmdline"))
    if not status or not stat:
        return None
    rows = dict(line.split(":\t", 1) for line in status.split("\n") if ":\t" in line)
    fields = stat.rpartition(") ")[2].split()
    outer = int(rows["Uid"].split()[1])
    name = stat.partition("(")[2].rpartition(") ")[0]
    return ServerProcess(
        server=server,
        pid=pid,
        inner=int(rows.get("NSpid", str(pid)).split()[-1]),
        user=outer - base if base and base <= outer < base + RANGE else None,
        state=fields[0],
        resident=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        seconds=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        command=words.rstrip("\0").replace("\0", " ") if words else f"[{name}]",
    )
