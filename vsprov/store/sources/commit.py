"""The `commit` source: an image that `vsprov commit` has made of a server, and that only the store has."""

from __future__ import annotations

import hashlib
import json

from msgspec.structs import asdict

from vsprov.errors import FailedError, ImageError
from vsprov.model.kinds.image import Image
from vsprov.model.values import digests
from vsprov.store import images
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.layers.layers import Batch
from vsprov.store.sources import Resolved


def digest(made_of: Contents) -> str:
    """The digest of an image with these contents."""
    inputs = {
        "commit": 1,
        "layers": made_of.layers,
        "binds": [asdict(bind) for bind in made_of.binds],
        "config": dict(made_of.config),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def fingerprint(digest: str) -> str:
    return f"commit {digest}"


def resolve(instance: Instance, image: Image, known: ImageRecord | None, refresh: bool) -> Resolved:
    assert image.source.commit is not None
    wanted = digests.hex_digits(image.source.commit.digest)
    if not images.is_whole(instance, wanted):
        raise _missing(image)
    try:
        made_of = images.contents(instance, wanted)
    except FailedError as error:
        raise ImageError(str(error)) from error
    return Resolved(wanted, fingerprint(wanted), made_of.config)


def fetch(batch: Batch, image: Image, resolved: Resolved) -> Contents:
    raise _missing(image)  # it was removed since


def _missing(image: Image) -> ImageError:
    source = image.source.commit
    assert source is not None
    return ImageError(
        f"image {digests.short(source.digest)}, made of server {source.server} by vsprov commit, is not in "
        "the store or is damaged",
        hint="it cannot be made again from a manifest; vsprov commit makes a new one",
    )
