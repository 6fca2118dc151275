"""Servers that a server depends on: `dependsOn`."""

from __future__ import annotations

from typing import Literal

from vsprov.model.fields import Section, value
from vsprov.model.values import patterns


class Dependency(Section):
    """A server that has to be started first."""

    name: str = value(doc="Server that this one depends on.", schema=patterns.NAME, refers="Server")
    condition: Literal["started", "ready", "healthy", "completed"] = value(
        "started",
        doc="Condition to wait for. started: its command is running. ready: its readiness probe succeeds. "
        "healthy: its health probe succeeds. completed: a command that is meant to end has ended with exit "
        "code 0.",
    )
