"""The `oci` source: an image from a registry, a layout or an archive.

Its layers are fetched concurrently. Those that do not depend on layers below are also unpacked concurrently,
the others in their order.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec.structs import replace

from vsprov.errors import ImageError, reason
from vsprov.kernel.paths import UnsafePathError, open_host
from vsprov.model.kinds.image import Image
from vsprov.model.sources import OciSource
from vsprov.model.values import digests
from vsprov.model.values.image_reference import parse_reference
from vsprov.store.disk import durable, folders
from vsprov.store.images import Contents, ImageRecord
from vsprov.store.instance import LISTING, Instance
from vsprov.store.layers import listing, unpacking
from vsprov.store.layers.layers import Batch
from vsprov.store.registry import layout
from vsprov.store.registry.oci_documents import Descriptor, Found, Parts
from vsprov.store.sources import Resolved, limits_of
from vsprov.store.sources.files import opened_file, plain, resolve_file
from vsprov.store.trees.limits import Limits
from vsprov.store.trees.tree import unusable

RAISE = "raise spec.limits of the Image"
AT_ONCE = 4  # downloads, as in other tools; registries limit connections
_locks: dict[str, threading.Lock] = {}


def resolve(instance: Instance, image: Image, known: ImageRecord | None, refresh: bool) -> Resolved:
    oci = image.source.oci
    assert oci is not None
    if oci.archive is not None:
        # Only the import reads the archive.
        resolved = resolve_file(plain(oci.archive), f"archive {oci.name or ''}", known)
        if known is not None and known.contents is not None and known.fingerprint == resolved.fingerprint:
            return Resolved(known.digest, resolved.fingerprint, known.contents.config)
        digest = hashlib.sha256(f"archive\n{resolved.digest}\n{oci.name or ''}".encode()).hexdigest()
        return Resolved(digest, resolved.fingerprint, None, resolved.digest)
    fingerprint = f"oci {oci.ref or _layout_status(plain(oci.layout))} {oci.name or ''} {oci.digest or ''}"
    if known is not None and known.contents is not None and known.fingerprint == fingerprint and not refresh:
        return Resolved(known.digest, fingerprint, known.contents.config)
    parts = _parts_of(oci, instance.downloads)
    found = parts.find()
    _refuse_other(oci, found)
    return Resolved(found.manifest.digest, fingerprint, found.config.to_json(), (parts, found))


def fetch(batch: Batch, image: Image, resolved: Resolved) -> Contents:
    oci = image.source.oci
    assert oci is not None
    folders.prepare(batch.instance, also=(batch.instance.downloads,))
    if oci.archive is None:
        if resolved.found is None:  # the record is known, but its contents are incomplete
            resolved = resolve(batch.instance, image, None, True)
        return _unpacked(batch, image, *resolved.found)
    path = plain(oci.archive)
    folder = f"{batch.instance.downloads}/{durable.MAKING}{resolved.digest}"
    try:
        durable.remove_tree(folder)
        os.mkdir(folder, 0o700)
        with opened_file(path) as archive:
            done = unpacking.unpack(
                archive, folder, whole=True, limits=limits_of(image), progress=batch.progress, label=path
            )
        if resolved.found not in (None, done.sha256):
            raise ImageError(
                f"{path}: changed after it was checked", hint="try again when nothing writes to it"
            )
        parts = layout.archive_parts(folder, oci.name)
        found = parts.find()
        _refuse_other(oci, found)
        return _unpacked(batch, image, parts, found)
    except ImageError as error:
        raise ImageError(str(error).replace(folder, path), hint=error.hint) from error
    except OSError as error:
        raise durable.failed(folder, "unpack the archive", error) from error
    finally:
        durable.remove_tree(folder)


def _unpacked(batch: Batch, image: Image, parts: Parts, found: Found) -> Contents:
    return Contents(_layers(batch, parts, found, limits_of(image)), config=found.config.to_json())


def _parts_of(oci: OciSource, downloads: str) -> Parts:
    """The parts of an image in a registry or a layout."""
    if oci.ref is not None:
        from vsprov.store.registry.parts import RegistryParts  # imports an HTTP library

        reference = parse_reference(oci.ref)
        if oci.digest is not None:
            reference = replace(reference, digest=digests.hex_digits(oci.digest))
        return RegistryParts(reference, downloads, oci.insecure)
    assert oci.layout is not None
    return layout.LayoutParts(oci.layout, oci.name)


def _layout_status(path: str) -> str:
    """A text that differs after another image has been stored in the layout."""
    try:
        folder = open_host(os.path.abspath(path), os.O_PATH | os.O_DIRECTORY, owners=False)
        try:
            status = os.stat("index.json", dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)
    except UnsafePathError as error:
        raise unusable(path, "open", error) from error
    except OSError as error:
        hint = "oci.layout takes a directory with oci-layout and index.json; use oci.archive for a file"
        raise ImageError(f"{path}/index.json: {reason(error)}", hint=hint) from error
    return f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _refuse_other(oci: OciSource, found: Found) -> None:
    """Raise ImageError if the image does not have the digest in the spec."""
    wanted = digests.hex_digits(oci.digest or "")
    if wanted and wanted not in (found.digest, found.manifest.digest):
        raise ImageError(
            f"{oci.ref or oci.layout or oci.archive}: expected digest {digests.full(wanted)}, "
            f"got {digests.full(found.digest)}",
            hint="this is not the image that the manifest names; correct the digest, or omit it",
        )


def _layers(batch: Batch, parts: Parts, found: Found, limits: Limits) -> tuple[str, ...]:
    """Make the missing layers of an image; the keys of all, lowest first."""
    wanted = list(zip(found.manifest.layers, found.config.diff_ids, strict=True))
    with ThreadPoolExecutor(AT_ONCE, "layer") as pool:
        alone = [pool.submit(_alone, batch, parts, layer, diff_id, limits) for layer, diff_id in wanted]
        try:
            keys: list[str] = []
            for (layer, diff_id), future in zip(wanted, alone, strict=True):
                if not future.result():
                    keys.append(_over(batch, parts, layer, diff_id, keys, limits))
                    continue
                if diff_id in keys:  # overlay accepts a directory only once; the lower one would be hidden
                    keys.remove(diff_id)
                keys.append(diff_id)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    summaries = [listing.summary(f"{batch.folder(key)}/{LISTING}") for key in keys]
    for what, most, count in (
        ("files", limits.entries, sum(summary.entries for summary in summaries)),
        ("bytes", limits.bytes, sum(summary.bytes for summary in summaries)),
    ):
        if count > most:
            raise ImageError(f"its layers hold {count} {what}; at most {most} are allowed", hint=RAISE)
    for layer in found.manifest.layers:
        with _lock_of(layer):
            durable.unlink(f"{batch.instance.downloads}/{layer.digest}")
    return tuple(keys)


def _alone(batch: Batch, parts: Parts, layer: Descriptor, diff_id: str, limits: Limits) -> bool:
    """Make a layer that does not refer to layers below it; False, after the download, for one that does."""
    if batch.has(diff_id):
        return True
    archive = _fetched(batch, parts, layer)
    try:
        folder = batch.begin(
            lambda into: _unpack(batch, archive, into, layer, diff_id, below=None, work="", limits=limits)
        )
    except unpacking.NeedsBelow:
        return False
    finally:
        os.close(archive)
    batch.keep(diff_id, folder)
    return True


def _over(
    batch: Batch, parts: Parts, layer: Descriptor, diff_id: str, below: Sequence[str], limits: Limits
) -> str:
    """Make a layer that refers to those below it; its key depends on them."""
    key = hashlib.sha256("\n".join(("over", *below, diff_id)).encode()).hexdigest()
    if batch.has(key):
        return key

    def fill(into: str) -> None:
        work = f"{os.path.dirname(into)}/work"
        os.mkdir(work, 0o700)
        archive = _fetched(batch, parts, layer)
        trees = [batch.tree(one) for one in reversed(below)]
        try:
            _unpack(batch, archive, into, layer, diff_id, below=trees, work=work, limits=limits)
        finally:
            os.close(archive)
        durable.remove_tree(work)

    batch.make(key, fill)
    return key


def _fetched(batch: Batch, parts: Parts, layer: Descriptor) -> int:
    """A descriptor of the layer's archive; concurrent imports fetch it only once."""
    with _lock_of(layer):
        path = parts.layer(layer, batch.progress)
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise durable.failed(path, "open", error) from error


def _lock_of(layer: Descriptor) -> threading.Lock:
    """The lock to fetch and open a layer's archive, and to remove it, since images may share it."""
    return _locks.setdefault(layer.digest, threading.Lock())


def _unpack(
    batch: Batch,
    archive: int,
    into: str,
    layer: Descriptor,
    diff_id: str,
    *,
    below: Sequence[str] | None,
    work: str,
    limits: Limits,
) -> None:
    label = f"layer {digests.short(layer.digest)}"
    done = unpacking.unpack(
        archive, into, below=below, work=work, limits=limits, progress=batch.progress, label=label
    )
    if done.sha256 != layer.digest:
        raise ImageError(f"{label}: changed since it was checked", hint="try again")
    if done.diff_id != diff_id:
        raise ImageError(
            f"{label}: content: expected {digests.full(diff_id)}, got {digests.full(done.diff_id)}",
            hint="the image contradicts itself: build or push it again",
        )
    batch.note(done.note)
