"""The spec of an image: where it comes from, and the limits on its size."""

from __future__ import annotations

from vsprov.model.fields import Section, one, value
from vsprov.model.sources import Source
from vsprov.model.values.value_kinds import BYTES


class ImageLimits(Section):
    """What an image may contain at most."""

    size: int = value(64 << 30, doc="Maximum size in bytes. An import that exceeds it fails.", kind=BYTES)
    files: int = value(
        1_000_000,
        doc="Maximum number of files, directories and links.",
        schema={"minimum": 1, "maximum": 100_000_000},
    )


class Image(Section):
    """The spec of an image."""

    source: Source = one(
        Source,
        doc="Where the image comes from: exactly one of host, directory, tar, oci, bootstrap, build, commit.",
    )
    limits: ImageLimits = one(ImageLimits, ImageLimits(), doc="Limits on the size of the image.")
