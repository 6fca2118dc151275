"""The steps of a plan: frozen data with strings only, so that they print, serialise and know their undo.

`controller` names a hierarchy: "" is cgroup2, where every home is; a name such as "memory" is wherever that
controller lives on this host. `group` is a path below it ("vsprov/web1"). `engine.apply.execute` holds one
function per class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class MakeGroup:
    """Make a group's directory in one hierarchy and mark it as ours; `role`: "host", "pool" or "server"."""

    controller: str
    group: str
    role: str
    owner: str


@dataclass(frozen=True, slots=True)
class MakePayload:
    """Make `<group>/payload`, where the server's processes are, and delegate it to the guest's root."""

    group: str
    server: str


@dataclass(frozen=True, slots=True)
class PassDown:
    """Let the children of a cgroup2 group have these controllers (cgroup.subtree_control)."""

    group: str
    controllers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Write `data` to a controller file, one write(2) per element; `undo` writes back what was there."""

    controller: str
    group: str
    file: str
    data: tuple[str, ...]
    undo: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class MoveProcesses:
    """Bring all processes of a running server into its group of a hierarchy that has just got one."""

    controller: str
    group: str


@dataclass(frozen=True, slots=True)
class RemoveGroup:
    """Kill what is in the group and remove it and all below it in every hierarchy."""

    group: str


@dataclass(frozen=True, slots=True)
class WriteMark:
    """Set `trusted.vsprov.<name>` on the cgroup2 directory of the group."""

    group: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ImportImage:
    """Make the image's layers and its record from its source."""

    image: str


@dataclass(frozen=True, slots=True)
class RemoveImage:
    """Remove the record; layers that nothing uses then are collected."""

    image: str


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Make the server's directory with its upper layer, id range and record."""

    server: str
    owner: str
    applied: str


@dataclass(frozen=True, slots=True)
class WriteApplied:
    """Replace the record in the server's directory; `undo` is what was there, "" for nothing readable."""

    server: str
    applied: str
    undo: str


@dataclass(frozen=True, slots=True)
class DiscardUpper:
    """Take away all that the server has written."""

    server: str


@dataclass(frozen=True, slots=True)
class RemoveDirectory:
    """Remove the server's directory with all it has written."""

    server: str


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Set a resource limit of every process of a running server."""

    server: str
    limit: str
    soft: str
    hard: str
    undo: tuple[str, str]


@dataclass(frozen=True, slots=True)
class SetHostname:
    """Give a running server another hostname."""

    server: str
    hostname: str
    undo: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the server's processes: the signal to its init; after `timeout` microseconds, all at once."""

    server: str
    signal: str
    timeout: int


@dataclass(frozen=True, slots=True)
class Spawn:
    """Make the server's init with everything around it; it waits at its gate."""

    server: str


@dataclass(frozen=True, slots=True)
class MarkInit:
    """Record the init that waits at the gate on the home group."""

    server: str


@dataclass(frozen=True, slots=True)
class Release:
    """Open the gate: the server's command is executed."""

    server: str


Step = (
    MakeGroup
    | MakePayload
    | PassDown
    | WriteFile
    | MoveProcesses
    | RemoveGroup
    | WriteMark
    | ImportImage
    | RemoveImage
    | MakeDirectory
    | WriteApplied
    | DiscardUpper
    | RemoveDirectory
    | SetLimit
    | SetHostname
    | Stop
    | Spawn
    | MarkInit
    | Release
)


def undo_of(step: Step) -> Step | None:
    """The step that takes back a step that was done; None where nothing has to be or can be taken back."""
    match step:
        case WriteFile():
            return WriteFile(step.controller, step.group, step.file, step.undo, step.data, f"undo {step.why}")
        case SetLimit():
            return SetLimit(step.server, step.limit, *step.undo, (step.soft, step.hard))
        case SetHostname():
            return SetHostname(step.server, step.undo, step.hostname)
        case WriteApplied() if step.undo:
            return WriteApplied(step.server, step.undo, step.applied)
        case MakeGroup(controller=""):
            return RemoveGroup(step.group)
        case MakeDirectory():
            return RemoveDirectory(step.server)
        case _:
            return None


def describe(step: Step) -> str:
    """One line for people: `-v`, error messages."""
    match step:
        case WriteFile():
            return f"write {', '.join(repr(part) for part in step.data)} to {step.group}/{step.file}"
        case MakeGroup():
            return f"make cgroup {step.group}" + (f" ({step.controller})" if step.controller else "")
        case MakePayload():
            return f"make cgroup {step.group}/payload"
        case PassDown():
            return f"enable {' '.join(step.controllers)} below {step.group or 'the root group'}"
        case MoveProcesses():
            return f"move the processes into {step.group} ({step.controller})"
        case RemoveGroup():
            return f"remove cgroup {step.group}"
        case WriteMark():
            return f"mark {step.group}: {step.name}"
        case ImportImage():
            return f"import image {step.image}"
        case RemoveImage():
            return f"remove image {step.image}"
        case MakeDirectory():
            return f"make the directory of {step.server}"
        case WriteApplied():
            return f"record what was applied to {step.server}"
        case DiscardUpper():
            return f"discard the upper layer of {step.server}"
        case RemoveDirectory():
            return f"remove the directory of {step.server}"
        case SetLimit():
            return f"set {step.limit} of {step.server} to {step.soft}:{step.hard}"
        case SetHostname():
            return f"set the hostname of {step.server} to {step.hostname}"
        case Stop():
            return f"stop {step.server} (SIG{step.signal})"
        case Spawn():
            return f"prepare {step.server}"
        case MarkInit():
            return f"mark the init of {step.server}"
        case Release():
            return f"start {step.server}"


def to_json(step: Step) -> dict[str, Any]:
    return {"step": type(step).__name__, **asdict(step)}
