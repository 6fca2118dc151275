"""The steps of a plan: frozen data that can be printed, serialized and undone.

A `hierarchy` is a cgroup v1 controller ("memory") or "" for cgroup2, which has the home of every server. A
`controller` can be in any hierarchy of the host. A `group` is a path below the root of a hierarchy
("vsprov/web1").

To add a step, define a class here or in the module of its aspect, and a function decorated with
`engine.apply.register.carries_out`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsprov.plan.step import Step as Step

# -- control groups


class MakeGroup(Step, frozen=True):
    """Create a group in one hierarchy with an owner mark; `role` is "host", "pool" or "server"."""

    hierarchy: str
    group: str
    role: str
    owner: str

    def describe(self) -> str:
        return f"create cgroup {self.group}" + (f" ({self.hierarchy})" if self.hierarchy else "")

    def undo(self) -> Step | None:
        return None if self.hierarchy else RemoveGroup(self.group)


class MakePayload(Step, frozen=True):
    """Create `<group>/payload` for the processes of the server, and delegate it to the guest's root user."""

    group: str
    server: str

    def describe(self) -> str:
        return f"create cgroup {self.group}/payload"


class EnableControllers(Step, frozen=True):
    """Enable controllers for the children of a cgroup2 group (cgroup.subtree_control)."""

    group: str
    controllers: tuple[str, ...]

    def describe(self) -> str:
        return f"enable {' '.join(self.controllers)} for children of {self.group or 'the root cgroup'}"


class WriteFile(Step, frozen=True):
    """Write `data` to a controller file, one write(2) per element; `before` is the data that undoes it."""

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


class MoveProcesses(Step, frozen=True):
    """Move all processes of a running server to its group in one hierarchy."""

    hierarchy: str
    group: str

    def describe(self) -> str:
        return f"move processes to cgroup {self.group} ({self.hierarchy or 'cgroup2'})"


class RemoveGroup(Step, frozen=True):
    """Kill all processes in a group, and remove it with its children from all hierarchies."""

    group: str

    def describe(self) -> str:
        return f"remove cgroup {self.group}"


class WriteMark(Step, frozen=True):
    """Set the extended attribute `trusted.vsprov.<name>` of the group's directory in cgroup2.

    `before` is the current text that undoes it, None if there is none.
    """

    group: str
    name: str
    text: str
    before: str | None = None

    def describe(self) -> str:
        return f"set mark {self.name!r} of cgroup {self.group}"

    def undo(self) -> Step | None:
        return WriteMark(self.group, self.name, self.before, self.text) if self.before else None


# -- images


class ImportImage(Step, frozen=True):
    """Create the layers of an image from its source, and its record."""

    image: str

    def describe(self) -> str:
        return f"import image {self.image}"


class ShareImage(Step, frozen=True):
    """Set the owner marks of an image: the sets that have it in their manifests."""

    image: str
    owners: tuple[str, ...]
    before: tuple[str, ...]

    def describe(self) -> str:
        return f"image {self.image}: belongs to {', '.join(self.owners)}"

    def undo(self) -> Step | None:
        return ShareImage(self.image, self.before, self.owners)


class ProtectImage(Step, frozen=True):
    """Record the names of the sets whose manifests say that an image must not be removed."""

    image: str
    sets: tuple[str, ...]
    before: tuple[str, ...]

    def describe(self) -> str:
        return f"image {self.image}: {'protect it from removal' if self.sets else 'allow its removal'}"

    def undo(self) -> Step | None:
        return ProtectImage(self.image, self.before, self.sets)


class RemoveImage(Step, frozen=True):
    """Remove the record of an image. Its layers are collected at the end if they are unused."""

    image: str

    def describe(self) -> str:
        return f"remove image {self.image}"


# -- directories of servers


class MakeDirectory(Step, frozen=True):
    """Create the server's directory with its upper layer, id range and record."""

    server: str
    owner: str
    applied: str

    def describe(self) -> str:
        return f"create the directory of {self.server}"

    def undo(self) -> Step | None:
        return RemoveDirectory(self.server)


class RenameDirectory(Step, frozen=True):
    """Give the directory of a stopped server, with everything in it, another name."""

    server: str
    new: str

    def describe(self) -> str:
        return f"rename the directory of {self.server} to {self.new}"

    def undo(self) -> Step | None:
        return RenameDirectory(self.new, self.server)


class RepairDirectory(Step, frozen=True):
    """Create the parts of the server's directory that are missing; record and claim its id range."""

    server: str

    def describe(self) -> str:
        return f"repair the directory of {self.server}"


class WriteApplied(Step, frozen=True):
    """Replace the record in the server's directory; `before` is the old one, "" if it was unreadable."""

    server: str
    applied: str
    before: str

    def describe(self) -> str:
        return f"update the record of {self.server}"

    def undo(self) -> Step | None:
        return WriteApplied(self.server, self.before, self.applied) if self.before else None


class KeepStopped(Step, frozen=True):
    """Record who wants the server to stay stopped when the host starts: "manifest", "command", "" for nobody.

    `before` is what is recorded now.
    """

    server: str
    by: str
    before: str

    def describe(self) -> str:
        return f"record that {self.server} {'stays stopped' if self.by else 'starts'} when the host starts"

    def undo(self) -> Step | None:
        return KeepStopped(self.server, self.before, self.by)


class DiscardUpper(Step, frozen=True):
    """Delete all data that the server has written."""

    server: str

    def describe(self) -> str:
        return f"discard the upper layer of {self.server}"


class RemoveDirectory(Step, frozen=True):
    """Remove the server's directory with all data that it has written."""

    server: str

    def describe(self) -> str:
        return f"remove the directory of {self.server}"


class WriteRecord(Step, frozen=True):
    """Write the record of a network or pool; `before` is the current one, "" if there is none or it is
    unreadable.
    """

    kind: str
    name: str
    owner: str
    applied: str
    before: str

    def describe(self) -> str:
        return f"write the record of {self.kind}/{self.name}"

    def undo(self) -> Step | None:
        if not self.before:
            return RemoveRecord(self.kind, self.name)
        return WriteRecord(self.kind, self.name, self.owner, self.before, self.applied)


class RemoveRecord(Step, frozen=True):
    """Remove the record of a network or pool."""

    kind: str
    name: str

    def describe(self) -> str:
        return f"remove the record of {self.kind}/{self.name}"


# -- processes of servers


class Stop(Step, frozen=True):
    """Send `signal` to the server's init, and after `timeout` microseconds SIGKILL to all its processes.

    `failed` is what of its start has failed, "" if it is stopped for another reason.
    """

    server: str
    signal: str
    timeout: int
    failed: str = ""

    def describe(self) -> str:
        return f"stop {self.server} (SIG{self.signal})"


class Spawn(Step, frozen=True):
    """Create the server's namespaces, mounts and init process. Init waits at its gate for `Release`.

    `host_network`: it has no network namespace of its own. `rescue`: a shell waits instead of its own init.
    """

    server: str
    host_network: bool = False
    rescue: bool = False

    def describe(self) -> str:
        return f"prepare {self.server}"

    def undo(self) -> Step | None:
        return KillUnstarted(self.server)


class KillUnstarted(Step, frozen=True):
    """End a server that waits at its gate."""

    server: str

    def describe(self) -> str:
        return f"end {self.server} before it is started"


class MarkInit(Step, frozen=True):
    """Set the mark `init` on the home group: the process that waits at the gate. `rescue` as in `Spawn`."""

    server: str
    rescue: bool = False

    def describe(self) -> str:
        return f"record the init of {self.server}"


class InformKeeper(Step, frozen=True):
    """Tell the keeper the part of a running server's spec that it works by; `before` is the current one."""

    server: str
    spec: Mapping[str, Any]
    before: Mapping[str, Any]

    def describe(self) -> str:
        return f"tell the keeper of {self.server}"

    def undo(self) -> Step | None:
        return InformKeeper(self.server, self.before, self.spec)


class Release(Step, frozen=True):
    """Open the gate: init executes the server's command. `stop` undoes it, if a later step can fail."""

    server: str
    stop: Stop | None = None

    def describe(self) -> str:
        return f"start {self.server}"

    def undo(self) -> Step | None:
        return self.stop
