"""Images on disk: a record by name, and the layers it is made of, by the sha256 of what they were made from.

Below the state root of an instance:

    images/<name>.json        owner mark; sealed record
    layers/<sha256>/          an immutable tree, shared by every image and server that names it
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vsprov.errors import ConflictError, ImageError, reason
from vsprov.model import fields
from vsprov.model.objects import Source, TarSource
from vsprov.store import durable, folders, hostimage, limits, marks, sealed, tree, unpacking
from vsprov.store.hostimage import Bind
from vsprov.store.instance import Instance
from vsprov.store.marks import Owner

Progress = Callable[[str], None]
LAYER = "layer"  # the mark of a layer: the instance that made it
_SUFFIX = ".json"
PACE = 0.5  # seconds between two words of how far an import is
_COARSE = 5  # CLOCK_REALTIME_COARSE, which the kernel stamps files with


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image as imported.

    `layers` are digests, lowest first. `source` is the manifest's `source` as it was. `problem` is "" when
    the record could be read and every layer is there; without a readable record `digest` is "" and `layers`
    is ().
    """

    name: str
    owner: Owner | None
    digest: str = ""
    layers: tuple[str, ...] = ()
    binds: tuple[Bind, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a source is now: the sha256 of what it holds, and a cheap text that shows a possible change."""

    digest: str
    fingerprint: str


def layer_path(instance: Instance, digest: str) -> str:
    """Where a layer lies.

    Raises ImageError for what is no sha256: a digest must never lead elsewhere (CVE-2026-48769).
    """
    if not _is_digest(digest):
        raise ImageError(f"{digest!r} is not a sha256")
    return f"{instance.layers}/{digest}"


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{64}", text) is not None


def observe(instance: Instance) -> dict[str, ImageRecord]:
    """Every image record, by name; {} before the first. Corrupt content is told in `problem`, not raised."""
    layers = set(folders.names(instance.layers))
    found = {}
    for file in folders.names(instance.images):
        if file.endswith(_SUFFIX):
            name = file.removesuffix(_SUFFIX)
            found[name] = _observe(name, f"{instance.images}/{file}", layers)
    return found


def _observe(name: str, path: str, layers: set[str]) -> ImageRecord:
    try:
        owner = marks.read_owner(path)
    except OSError as error:
        return ImageRecord(name, None, problem=f"owner mark: {reason(error)}")
    content, problem = sealed.read(path)
    if content is None:
        return ImageRecord(name, owner, problem=problem)
    try:
        record = ImageRecord(
            name=name,
            owner=owner,
            digest=content["digest"],
            layers=tuple(content["layers"]),
            binds=tuple(Bind(bind["source"], bind["target"]) for bind in content["binds"]),
            source=content["source"],
            fingerprint=content["fingerprint"],
            config=content["config"],
            problem="; ".join(
                f"layer {layer} is missing" for layer in content["layers"] if layer not in layers
            ),
        )
    except (KeyError, TypeError):
        return ImageRecord(name, owner, problem=f"{name}{_SUFFIX} is no record of an image")
    if all(_is_digest(text) for text in (record.digest, *record.layers)):
        return record
    return ImageRecord(name, owner, problem=f"{name}{_SUFFIX} names what is no sha256")


def resolve(source: Source, base_dir: str = "", record: ImageRecord | None = None) -> Resolved:
    """What `source` is now; only reads. Relative paths are taken from `base_dir`.

    When the fingerprint is the record's, so is the digest, and no content is read. Raises ImageError for a
    source that is not there, changes meanwhile, holds what no image may hold, or whose sha256 is not the
    wanted one.
    """
    if source.host is not None:
        hostimage.check(source.host)
        digest = hostimage.digest(source.host)
        return Resolved(digest, f"host {digest}")
    if source.tar is not None:
        return _resolve_tar(source.tar, base_dir, record)
    return _resolve_directory(_path(base_dir, source.directory), record)


def _path(base_dir: str, path: str | None) -> str:
    if not path:
        raise ImageError("an image needs one source: host, directory or tar")
    if "\0" in path:
        raise ImageError(f"{path!r}: no path can hold a NUL")
    return os.path.normpath(os.path.join(base_dir, path))


def _resolve_directory(path: str, record: ImageRecord | None) -> Resolved:
    with tree.opened(path) as top:
        found, newest = tree.fingerprint(top, path)
        known = f"directory {found}"
        if record is not None and record.digest and record.fingerprint == known:
            return Resolved(record.digest, known)
        _outwait(newest)
        digest = tree.digest(top, path)
        if tree.fingerprint(top, path)[0] != found:
            raise ImageError(f"{path}: changed while it was being read", hint="try again when it is at rest")
    return Resolved(digest, known)


def _resolve_tar(tar: TarSource, base_dir: str, record: ImageRecord | None) -> Resolved:
    path = _path(base_dir, tar.path)
    fd = open_tar(path)
    with open(fd, "rb") as file:
        known, newest = _tar_fingerprint(fd)
        if record is not None and record.digest and record.fingerprint == known:
            digest = record.digest
        else:
            _outwait(newest)
            try:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise ImageError(f"{path}: read: {reason(error)}") from error
            if _tar_fingerprint(fd)[0] != known:
                raise ImageError(
                    f"{path}: changed while it was being read", hint="try again when it is at rest"
                )
    if tar.sha256 is not None and tar.sha256.lower() != digest:
        raise ImageError(
            f"{path}: sha256 {tar.sha256.lower()} is wanted: the file has {digest}",
            hint="it is another file than the manifest means: fetch it again, or correct sha256",
        )
    return Resolved(digest, known)


def open_tar(path: str) -> int:
    """A descriptor of a regular file, for reading."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"{path}: open: {reason(error)}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(
            f"{path}: not a file", hint="source.tar names an archive; a directory goes to source.directory"
        )
    return fd


def _tar_fingerprint(fd: int) -> tuple[str, int]:
    s = os.fstat(fd)
    return f"tar {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino} {s.st_dev}", s.st_ctime_ns


def _outwait(newest: int) -> None:
    """Let the file system's clock pass the newest change, so that no later one can bear the same time."""
    for _ in range(20):
        if not 0 <= time.clock_gettime_ns(_COARSE) - newest < 1:
            return
        time.sleep(0.001)


def import_image(
    instance: Instance,
    name: str,
    source: Source,
    resolved: Resolved,
    owner: Owner,
    progress: Progress,
    *,
    base_dir: str = "",
) -> ImageRecord:
    """Make the layer that `resolve` has seen, unless it is there, then the record; both survive a power cut.

    Raises ImageError when the source cannot be an image or is no longer what `resolved` says, ConflictError
    when the record is someone else's. Nothing is left of a layer that could not be finished.
    """
    path = folders.place(instance.images, name, _SUFFIX)
    _refuse_foreign(path, name, owner)
    folders.prepare(instance)
    if source.host is not None:
        hostimage.check(source.host, state_root=instance.root)
    if not os.path.isdir(layer_path(instance, resolved.digest)):
        try:
            _make_layer(instance, source, resolved, progress, base_dir)
        except ImageError as error:
            raise ImageError(f"Image/{name}: {error}", hint=error.hint) from error
    record = ImageRecord(
        name=name,
        owner=owner,
        digest=resolved.digest,
        layers=(resolved.digest,),
        binds=hostimage.binds(source.host) if source.host is not None else (),
        source=fields.write(source),
        fingerprint=resolved.fingerprint,
    )
    durable.write_file(path, sealed.seal(_content(record)), owner=owner)
    return record


def _content(record: ImageRecord) -> dict[str, Any]:
    return {
        "digest": record.digest,
        "layers": list(record.layers),
        "binds": [{"source": bind.source, "target": bind.target} for bind in record.binds],
        "source": record.source,
        "fingerprint": record.fingerprint,
        "config": record.config,
    }


def _refuse_foreign(path: str, name: str, owner: Owner) -> None:
    try:
        found = marks.read_owner(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise durable.failed(path, "read its owner mark", error) from error
    if found != owner:
        whose = f"belongs to {found}" if found else "bears no owner mark"
        raise ConflictError(
            f"Image/{name}: {path} {whose}: it is not touched",
            hint="rename the image, or move that file away",
        )


def _make_layer(
    instance: Instance, source: Source, resolved: Resolved, progress: Progress, base_dir: str
) -> None:
    path = layer_path(instance, resolved.digest)
    making = f"{instance.layers}/{durable.MAKING}{resolved.digest}"
    durable.remove_tree(making)
    try:
        os.mkdir(making, 0o755)
        os.chmod(making, 0o755)
        try:
            if source.host is not None:
                hostimage.build(source.host, making)
            elif source.tar is not None:
                _unpack(_path(base_dir, source.tar.path), making, resolved, progress)
            else:
                _copy(instance, _path(base_dir, source.directory), making, resolved, progress)
            marks.write_mark(making, LAYER, instance.name)
            durable.flush_all(making)
            durable.rename_new(making, path)
        except BaseException:
            durable.remove_tree(making)
            raise
        durable.flush_folder(instance.layers)
    except OSError as error:
        raise durable.failed(path, "make the layer", error) from error


def _copy(instance: Instance, path: str, making: str, resolved: Resolved, progress: Progress) -> None:
    real, root = os.path.realpath(path), os.path.realpath(instance.root)
    if f"{root}/".startswith(f"{real.rstrip('/')}/"):
        raise ImageError(f"{path}: it holds {root}, where the images themselves are kept")
    with tree.opened(path) as top:
        tree.copy(top, path, making, _paced(progress))
        if f"directory {tree.fingerprint(top, path)[0]}" != resolved.fingerprint:
            raise ImageError(
                f"{path}: changed while it was being copied", hint="try again when it is at rest"
            )


def _unpack(path: str, making: str, resolved: Resolved, progress: Progress) -> None:
    """Unpack the archive into `making`, and see to it that what was read was the archive meant."""

    def tell(what: str, done: int, total: int) -> None:
        progress(f"{what} {done >> 20} of {total >> 20} MiB")

    with open(open_tar(path), "rb") as archive:
        found = unpacking.unpack(
            archive.fileno(), making, whole=True, limits=limits.LIMITS, progress=tell, shown=path
        )
    if found.sha256 != resolved.digest:
        raise ImageError(f"{path}: changed since it was looked at", hint="try again when it is at rest")


def _paced(progress: Progress) -> Callable[[int, int], None]:
    """Tells of each `PACE` seconds of copying."""
    last = time.monotonic()

    def tell(entries: int, size: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PACE:
            last = time.monotonic()
            progress(_far("copied", entries, size))

    return tell


def _far(verb: str, entries: int, size: int) -> str:
    return f"{verb} {entries} files, {size >> 20} MiB"


def remove_image(instance: Instance, name: str) -> None:
    """Remove a record if it is there, and leave its layers; ConflictError for one that is not ours."""
    path = folders.place(instance.images, name, _SUFFIX)
    try:
        owner = marks.read_owner(path)
        if owner is None or owner.instance != instance.name:
            raise ConflictError(f"Image/{name}: {path} bears no mark of {instance.name}: it is not touched")
        os.unlink(path)
        durable.flush_folder(instance.images)
    except FileNotFoundError:
        return
    except OSError as error:
        raise durable.failed(path, "remove", error) from error


def unused_layers(instance: Instance, used: Iterable[str] = ()) -> list[str]:
    """The digests of layers that no image record names, nor `used`: what servers run on, whatever it says.

    [] as long as any record cannot be read: it may name any of them.
    """
    records = observe(instance).values()
    if any(not record.layers for record in records):
        return []
    named = {*used, *(layer for record in records for layer in record.layers)}
    return [
        digest
        for digest in folders.names(instance.layers)
        if digest not in named and _is_digest(digest) and _is_ours(instance, digest)
    ]


def _is_ours(instance: Instance, digest: str) -> bool:
    try:
        return marks.read_mark(layer_path(instance, digest), LAYER) == instance.name
    except OSError:
        return False


def remove_layer(instance: Instance, digest: str) -> None:
    """Remove a layer; nothing happens when it is not there. Nothing may use it any more."""
    path = layer_path(instance, digest)
    try:
        aside = durable.set_aside(path)
    except OSError as error:
        raise durable.failed(path, "remove", error) from error
    if aside is not None:
        durable.remove_tree(aside)
