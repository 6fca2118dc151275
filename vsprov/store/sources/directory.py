"""The `directory` source: a directory with a root file system, which is copied."""

from __future__ import annotations

import os

from vsprov.errors import ImageError
from vsprov.model.kinds.image import Image
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import Instance
from vsprov.store.layers.layers import Batch
from vsprov.store.sources import Resolved, limits_of
from vsprov.store.sources.files import plain, wait_past_mtime
from vsprov.store.trees import copying, tree


def resolve(instance: Instance, image: Image, known: ImageRecord | None, refresh: bool) -> Resolved:
    path, reject_reason = plain(image.source.directory), tree.image_reject_reason(limits_of(image))
    with tree.opened(path) as top:
        found, newest = tree.fingerprint(top, path, reject_reason)
        fingerprint = f"directory {found}"
        if known is not None and known.fingerprint == fingerprint:
            return Resolved(known.digest, fingerprint)
        wait_past_mtime(newest)
        digest = tree.digest(top, path, reject_reason)
        if tree.fingerprint(top, path, reject_reason)[0] != found:
            raise ImageError(
                f"{path}: changed while it was being read", hint="try again when nothing writes to it"
            )
    return Resolved(digest, fingerprint)


def fetch(batch: Batch, image: Image, resolved: Resolved) -> Contents:
    path, reject_reason = plain(image.source.directory), tree.image_reject_reason(limits_of(image))
    real, root = os.path.realpath(path), os.path.realpath(batch.instance.root)
    if f"{root}/".startswith(f"{real.rstrip('/')}/"):
        raise ImageError(f"{path}: it contains {root}, the state root of this instance")

    def fill(into: str) -> None:
        with tree.opened(path) as top:
            note = copying.copy(
                top, path, into, lambda count, size: batch.progress("copy", size, 0), reject_reason
            )
            batch.note(note)
            if f"directory {tree.fingerprint(top, path, reject_reason)[0]}" != resolved.fingerprint:
                raise ImageError(
                    f"{path}: changed while it was being copied", hint="try again when nothing writes to it"
                )

    batch.make(resolved.digest, fill)
    return Contents((resolved.digest,))
