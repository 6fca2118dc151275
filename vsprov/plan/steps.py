"""The steps of a plan: frozen data with strings only, so that they print, serialise and know their undo.

A `hierarchy` is named by its controller on cgroup v1 ("memory"), "" is cgroup2, where every home is; a
`controller` is found in whatever hierarchy this host has it. `group` is a path below it ("vsprov/web1").

A new step is one class here, or in the module of the aspect it belongs to, and one function marked with
`engine.apply.register.carries_out`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """What every step can do: say what it does, and name the step that takes it back."""

    def describe(self) -> str:
        """One line for people: `-v`, error messages."""
        raise NotImplementedError

    def undo(self) -> Step | None:
        """The step that takes this one back; None where nothing has to be or can be taken back."""
        return None

    def to_json(self) -> dict[str, Any]:
        """The step as the plan's JSON has it: its class at "step", and its fields."""
        return {"step": type(self).__name__, **asdict(self)}


# -- control groups


@dataclass(frozen=True, slots=True)
class MakeGroup(Step):
    """Make a group's directory in one hierarchy and mark it as ours; `role`: "host", "pool" or "server"."""

    hierarchy: str
    group: str
    role: str
    owner: str

    def describe(self) -> str:
        return f"make cgroup {self.group}" + (f" ({self.hierarchy})" if self.hierarchy else "")

    def undo(self) -> Step | None:
        return None if self.hierarchy else RemoveGroup(self.group)


@dataclass(frozen=True, slots=True)
class MakePayload(Step):
    """Make `<group>/payload`, where the server's processes are, and delegate it to the guest's root."""

    group: str
    server: str

    def describe(self) -> str:
        return f"make cgroup {self.group}/payload"


@dataclass(frozen=True, slots=True)
class EnableControllers(Step):
    """Enable controllers for the children of a cgroup2 group (cgroup.subtree_control)."""

    group: str
    controllers: tuple[str, ...]

    def describe(self) -> str:
        return f"enable {' '.join(self.controllers)} below {self.group or 'the root group'}"


@dataclass(frozen=True, slots=True)
class WriteFile(Step):
    """Write `data` to a controller file, one write(2) per element; `before` is what takes it back."""

    controller: str
    group: str
    file: str
    data: tuple[str, ...]
    before: tuple[str, ...]
    why: str

    def describe(self) -> str:
        return f"write {', '.join(repr(part) for part in self.data)} to {self.group}/{self.file}"

    def undo(self) -> Step | None:
        return WriteFile(self.controller, self.group, self.file, self.before, self.data, f"undo {self.why}")


@dataclass(frozen=True, slots=True)
class MoveProcesses(Step):
    """Move all processes of a running server into its group of a hierarchy where it has just been made."""

    hierarchy: str
    group: str

    def describe(self) -> str:
        return f"move the processes into {self.group} ({self.hierarchy or 'cgroup2'})"


@dataclass(frozen=True, slots=True)
class RemoveGroup(Step):
    """Kill what is in the group and remove it and all below it in every hierarchy."""

    group: str

    def describe(self) -> str:
        return f"remove cgroup {self.group}"


@dataclass(frozen=True, slots=True)
class WriteMark(Step):
    """Set `trusted.vsprov.<name>` on the cgroup2 directory of the group."""

    group: str
    name: str
    text: str

    def describe(self) -> str:
        return f"mark {self.group}: {self.name}"


# -- images


@dataclass(frozen=True, slots=True)
class ImportImage(Step):
    """Make the image's layers and its record from its source."""

    image: str

    def describe(self) -> str:
        return f"import image {self.image}"


@dataclass(frozen=True, slots=True)
class RemoveImage(Step):
    """Remove the record; layers that nothing uses then are collected."""

    image: str

    def describe(self) -> str:
        return f"remove image {self.image}"


# -- what a server has on disk


@dataclass(frozen=True, slots=True)
class MakeDirectory(Step):
    """Make the server's directory with its upper layer, id range and record."""

    server: str
    owner: str
    applied: str

    def describe(self) -> str:
        return f"make the directory of {self.server}"

    def undo(self) -> Step | None:
        return RemoveDirectory(self.server)


@dataclass(frozen=True, slots=True)
class WriteApplied(Step):
    """Replace the record in the server's directory; `before` is what was there, "" for nothing readable."""

    server: str
    applied: str
    before: str

    def describe(self) -> str:
        return f"record what was applied to {self.server}"

    def undo(self) -> Step | None:
        return WriteApplied(self.server, self.before, self.applied) if self.before else None


@dataclass(frozen=True, slots=True)
class DiscardUpper(Step):
    """Delete all that the server has written."""

    server: str

    def describe(self) -> str:
        return f"discard the upper layer of {self.server}"


@dataclass(frozen=True, slots=True)
class RemoveDirectory(Step):
    """Remove the server's directory with all it has written."""

    server: str

    def describe(self) -> str:
        return f"remove the directory of {self.server}"


# -- running it


@dataclass(frozen=True, slots=True)
class Stop(Step):
    """End the server's processes: the signal to its init; after `timeout` microseconds, SIGKILL to all."""

    server: str
    signal: str
    timeout: int

    def describe(self) -> str:
        return f"stop {self.server} (SIG{self.signal})"


@dataclass(frozen=True, slots=True)
class Spawn(Step):
    """Make the server's init with everything around it; it waits at its gate."""

    server: str

    def describe(self) -> str:
        return f"prepare {self.server}"


@dataclass(frozen=True, slots=True)
class MarkInit(Step):
    """Record the init that waits at the gate on the home group."""

    server: str

    def describe(self) -> str:
        return f"mark the init of {self.server}"


@dataclass(frozen=True, slots=True)
class Release(Step):
    """Open the gate: the server's command is executed."""

    server: str

    def describe(self) -> str:
        return f"start {self.server}"
