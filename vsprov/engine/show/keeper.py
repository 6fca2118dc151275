"""What the keeper of an instance does at the moment, for `vsprov keeper status`."""

from __future__ import annotations

from typing import Any

from vsprov.engine.logs import settled
from vsprov.engine.look import last_exit
from vsprov.engine.run import keeper
from vsprov.errors import FailedError
from vsprov.kernel import proc
from vsprov.store.instance import Instance


def document(instance: Instance) -> dict[str, Any]:
    """The status as JSON. `unattended` are the running servers that it does not keep."""
    found = keeper.connect(instance)
    try:
        status = found.status() if found else None
    except keeper.KeeperGone:
        status = None
    finally:
        if found:
            found.close()
    unattended = settled.unattended(instance)
    if status is None:
        return {"running": False, "unattended": unattended}
    return {
        "running": True,
        "pid": status["pid"],
        "startedAt": last_exit.timestamp(status["since"]),
        "memoryBytes": memory(status["pid"]),
        "servers": sorted(status["kept"]),
        "unattended": unattended,
        "restarts": [
            {"server": name, "at": last_exit.timestamp(at)}
            for name, at in sorted(status["restarts"].items(), key=lambda each: (each[1], each[0]))
        ],
        "snapshots": [
            {"server": name, "at": last_exit.timestamp(at)}
            for name, at in sorted(status["snapshots"].items(), key=lambda each: (each[1], each[0]))
        ],
        "acting": status["acting"] or None,
        "actions": status["acts"],
        "problems": status["problems"],
    }


def memory(pid: int) -> int | None:
    """The memory of a process, with its share of what it has in common with others (Pss); None if unknown."""
    try:
        lines = proc.lines(f"/proc/{pid}/smaps_rollup")
    except (OSError, FailedError):
        return None
    found = [line.split()[1] for line in lines if line.startswith("Pss:")]
    return int(found[0]) << 10 if found else None
