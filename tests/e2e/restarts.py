"""What tests of restarts share."""

from __future__ import annotations

import json
from typing import Any

from tests.lab import Lab, wait_until
from vsprov.engine.run import keeper
from vsprov.store.instance import Instance

QUICK = {"policy": "always", "delay": "10ms"}
WAITS = "mkfifo /tmp/go 2>/dev/null; read line < /tmp/go; "  # until `go`


def status(lab: Lab, name: str) -> Any:
    return json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]


def state(lab: Lab, name: str) -> str:
    return str(status(lab, name)["state"])


def go(lab: Lab, name: str) -> None:
    """Let a server that waits go on."""
    fifo = lab.root(name) / "tmp/go"
    wait_until(fifo.exists)
    fifo.write_text("go\n")


def keeper_status(lab: Lab) -> Any:
    connection = keeper.connect(Instance(lab.vsprov.name, str(lab.vsprov.root)))
    assert connection
    try:
        return connection.status()
    finally:
        connection.close()


def inert(lab: Lab, name: str) -> bool:
    """Whether nothing is due for a server that has ended."""
    return name not in keeper_status(lab)["restarts"] and status(lab, name)["restart"] is None
