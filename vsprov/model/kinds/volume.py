"""The spec of a volume: files that outlive servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsprov.model.fields import Section, one, value
from vsprov.model.sources import TarSource, parse_mode, parse_owner
from vsprov.model.values import patterns
from vsprov.model.values.units import MAX
from vsprov.model.values.value_kinds import DISK_BACKEND, LIMIT_BYTES, NUMBER_OR_MAX


class ImageFolder(Section):
    """A directory of an image."""

    name: str = value(doc="Image that contains the directory.", schema=patterns.NAME, refers="Image")
    path: str = value(doc="Path of the directory in the image.", schema=patterns.ABSOLUTE)


class VolumeSource(Section):
    """What a volume contains when it is created. Exactly one key is set."""

    image: ImageFolder | None = one(
        ImageFolder, None, doc="The contents of a directory of an image.", choice=True
    )
    tar: TarSource | None = one(
        TarSource, None, doc="The contents of an archive: plain, gz, bz2, xz or zst.", choice=True
    )


class Volume(Section):
    """The desired state of a volume."""

    size: Any = value(
        None,
        doc="Maximum size of all files of the volume, with their metadata; at least 16Mi. Not set, or max: "
        "no limit.",
        kind=LIMIT_BYTES,
    )
    inodes: Any = value(
        None,
        doc="Maximum number of files, directories and links in the volume. Not set, or max: no limit of its "
        "own.",
        kind=NUMBER_OR_MAX,
    )
    backend: str | None = value(
        None,
        doc="How the volume is limited, as disk.backend of servers; auto is the default.",
        kind=DISK_BACKEND,
    )
    source: VolumeSource | None = one(
        VolumeSource,
        None,
        doc="What the volume contains when it is created: exactly one of image and tar. Not set: nothing. "
        "Later changes of the key do not change the files.",
    )
    owner: str | None = value(
        None,
        doc="Owner of the root directory of the volume, as servers see it: UID or UID:GID. Not set: that of "
        "the source, or root.",
        schema={"type": ["string", "integer"]},
        parse=parse_owner,
    )
    mode: str | None = value(
        None,
        doc="Permissions of the root directory of the volume, in octal, quoted. Not set: those of the "
        "source, or 0755.",
        schema=patterns.file_mode("0755"),
        parse=parse_mode,
    )
    exclusive: bool = value(False, doc="Only one server may mount the volume.")

    def limits(self) -> Mapping[str, Any]:
        """What limits the volume, by the knobs of servers that limit their disks."""
        keys = {"disk.space": self.size, "disk.inodes": self.inodes}
        set_ = {key: given for key, given in keys.items() if given not in (None, MAX)}
        return {**set_, "disk.backend": self.backend} if set_ and self.backend else set_
