"""Steps that create, change and remove volumes. Those that mount them are in `plan.aspects.mounts`."""

from __future__ import annotations

from vsprov.model.disk_backends import IMAGE
from vsprov.plan.step import Step
from vsprov.plan.volumes.state import UNLIMITED, Space


class MakeVolume(Step, frozen=True):
    """Create a volume with its limit, the contents of its source, and its record."""

    volume: str
    owner: str
    applied: str
    space: Space = UNLIMITED

    def describe(self) -> str:
        return f"create volume {self.volume}" + (f" of {self.space}" if self.space.backend else "")


class ResizeVolume(Step, frozen=True):
    """Change the limits of a volume, with all that is in it; `live` while servers have it mounted.

    Nothing undoes it for an image that has grown so: that shrinks only while it is not mounted.
    """

    volume: str
    before: Space
    after: Space
    live: bool

    def describe(self) -> str:
        return f"resize volume {self.volume} to {self.after}"

    def undo(self) -> Step | None:
        if self.live and self.after.backend == IMAGE:
            return None
        return ResizeVolume(self.volume, self.after, self.before, self.live)


class MoveVolume(Step, frozen=True):
    """Copy the files of a volume to where another backend limits them. No server has it mounted."""

    volume: str
    before: Space
    after: Space

    def describe(self) -> str:
        return f"copy the files of volume {self.volume} to where there is {self.after}"

    def undo(self) -> Step | None:
        return MoveVolume(self.volume, self.after, self.before)


class WriteVolume(Step, frozen=True):
    """Replace the record of a volume; `before` is the current one, "" if it is unreadable."""

    volume: str
    applied: str
    before: str

    def describe(self) -> str:
        return f"update the record of volume {self.volume}"

    def undo(self) -> Step | None:
        return WriteVolume(self.volume, self.before, self.applied) if self.before else None


class SetVolumeRoot(Step, frozen=True):
    """Set the owner and the mode of the root directory of a volume; "" leaves one as it is.

    `before` are the current ones.
    """

    volume: str
    owner: str
    mode: str
    before: tuple[str, str]

    def describe(self) -> str:
        what = " and ".join(filter(None, (self.owner and f"owner {self.owner}", self.mode)))
        return f"set the root directory of volume {self.volume} to {what}"

    def undo(self) -> Step | None:
        return SetVolumeRoot(self.volume, *self.before, (self.owner, self.mode))


class RenameVolume(Step, frozen=True):
    """Give a volume another name. Servers that have it mounted keep it mounted."""

    volume: str
    new: str

    def describe(self) -> str:
        return f"rename volume {self.volume} to {self.new}"

    def undo(self) -> Step | None:
        return RenameVolume(self.new, self.volume)


class RemoveVolume(Step, frozen=True):
    """Remove a volume, with its files if `data` is set; otherwise it must have none when this is done."""

    volume: str
    data: bool

    def describe(self) -> str:
        return f"remove volume {self.volume}" + (" with its files" if self.data else "")
