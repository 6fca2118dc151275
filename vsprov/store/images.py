"""Images on disk: a record by name, and by digest what an image of it is made of.

Below the state root of an instance:

    images/<name>.json          owner mark; sealed: which digest the name stands for, and its spec
    manifests/<sha256>.json     sealed: the layers, what is bound over them, what servers of it do by default

A manifest stays as long as a record or a server names its digest: a server runs on what it was started from,
whatever its image's name stands for by now.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vsprov.errors import ConflictError, FailedError, ImageError, reason
from vsprov.model import digests
from vsprov.store.disk import durable, folders, marks, sealed
from vsprov.store.disk.marks import Owner
from vsprov.store.hostimage import Bind
from vsprov.store.instance import Instance
from vsprov.store.layers import layers
from vsprov.store.layers.layers import is_digest

_SUFFIX = ".json"
_writing = threading.Lock()  # images that are imported at once may have one digest


@dataclass(frozen=True, slots=True)
class Contents:
    """What an image is made of: keys of layers, lowest first; what is bound over them; and what its servers
    do where they do not say it themselves (`model.defaults`).
    """

    layers: tuple[str, ...]
    binds: tuple[Bind, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image as imported.

    `spec` is the manifest's spec as it was. `problem` is "" when the record could be read and all of
    its contents are there; without them `contents` is None, without a readable record `digest` is "".
    """

    name: str
    owner: Owner | None
    digest: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    contents: Contents | None = None
    problem: str = ""


def observe(instance: Instance, known: Mapping[str, Contents | None] | None = None) -> dict[str, ImageRecord]:
    """Every image record, by name; {} before the first. Corrupt content is told in `problem`, not raised.

    `known`: what `manifests` has just given, if it was asked.
    """
    there = layers.keys(instance)
    known = known or {}
    found = {}
    for file in folders.names(instance.images):
        if file.endswith(_SUFFIX):
            name = file.removesuffix(_SUFFIX)
            found[name] = _observe(instance, name, f"{instance.images}/{file}", there, known)
    return found


def _observe(
    instance: Instance, name: str, path: str, there: set[str], known: Mapping[str, Contents | None]
) -> ImageRecord:
    try:
        owner = marks.read_owner(path)
    except OSError as error:
        return ImageRecord(name, None, problem=f"owner mark: {reason(error)}")
    content, problem = sealed.read(path)
    if content is None:
        return ImageRecord(name, owner, problem=problem)
    digest, spec, fingerprint = (content.get(key) for key in ("digest", "spec", "fingerprint"))
    if not (is_digest(digest) and isinstance(spec, dict) and isinstance(fingerprint, str)):
        return ImageRecord(name, owner, problem=f"{name}{_SUFFIX} is no record of an image")
    made_of, problem = known.get(str(digest)), ""
    if made_of is None:
        made_of, problem = _contents(instance, str(digest))
    missing = [key for key in made_of.layers if key not in there] if made_of else []
    problem = problem or "; ".join(f"layer {key} is missing" for key in missing)
    return ImageRecord(name, owner, str(digest), spec, fingerprint, made_of, problem)


def contents(instance: Instance, digest: str) -> Contents:
    """What an image of this digest is made of. FailedError when the store does not (or no longer) know."""
    found, problem = _contents(instance, digest)
    if found is None:
        hint = "apply the manifest of its image, or vsprov image pull"
        raise FailedError(f"image {digests.short(digest)}: {problem}", hint=hint)
    return found


def manifests(instance: Instance) -> dict[str, Contents | None]:
    """What images of every known digest are made of; None where that cannot be read."""
    names = (name.removesuffix(_SUFFIX) for name in folders.names(instance.manifests))
    return {name: _contents(instance, name)[0] for name in names if is_digest(name)}


def _contents(instance: Instance, digest: str) -> tuple[Contents | None, str]:
    if not is_digest(digest):
        return None, f"{digest!r} is not a sha256"
    content, problem = sealed.read(f"{instance.manifests}/{digest}{_SUFFIX}")
    if content is None:
        return None, problem
    try:
        keys = tuple(content["layers"])
        binds = tuple(Bind(bind["source"], bind["target"]) for bind in content["binds"])
        config = dict(content["config"])
    except (KeyError, TypeError, ValueError):
        return None, f"{digest}{_SUFFIX} is no manifest of an image"
    if not all(map(is_digest, keys)):
        return None, f"{digest}{_SUFFIX} names what is no sha256"
    return Contents(keys, binds, config), ""


def is_whole(instance: Instance, digest: str) -> bool:
    """Whether an image of this digest could be started: its manifest and all layers are there."""
    found, _ = _contents(instance, digest)
    return found is not None and all(os.path.isdir(layers.tree(instance, key)) for key in found.layers)


def write(
    instance: Instance,
    name: str,
    digest: str,
    made_of: Contents,
    owner: Owner,
    *,
    spec: Mapping[str, Any],
    fingerprint: str,
) -> None:
    """Let the name stand for the digest, made of layers that are there; both survive a power cut.

    ConflictError when the record is someone else's.
    """
    path = folders.place(instance.images, name, _SUFFIX)
    refuse_foreign(instance, name, owner)
    if not is_digest(digest):
        raise ImageError(f"Image/{name}: {digest!r} is not a sha256")
    manifest = {
        "layers": list(made_of.layers),
        "binds": [asdict(bind) for bind in made_of.binds],
        "config": dict(made_of.config),
    }
    record = {"digest": digest, "spec": dict(spec), "fingerprint": fingerprint}
    with _writing:
        durable.write_file(f"{instance.manifests}/{digest}{_SUFFIX}", sealed.seal(manifest))
        durable.write_file(path, sealed.seal(record), owner=owner)


def refuse_foreign(instance: Instance, name: str, owner: Owner) -> None:
    """ConflictError when a record of this name is not the owner's."""
    path = folders.place(instance.images, name, _SUFFIX)
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


def remove(instance: Instance, name: str) -> None:
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


@dataclass(frozen=True, slots=True)
class Unused:
    """What nothing needs: digests of manifests, keys of layers, and names of downloads."""

    manifests: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    downloads: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.manifests or self.layers or self.downloads)


def unused(instance: Instance, used: Iterable[str] = (), without: Iterable[str] = ()) -> Unused:
    """What no image record but those in `without` needs, nor `used`: the digests that servers run on,
    whatever the records say.

    Nothing as long as any record or manifest cannot be read: it may name any of them.
    """
    left_out = set(without)
    known = manifests(instance)
    records = [record for name, record in observe(instance, known).items() if name not in left_out]
    if any(not record.digest for record in records) or None in known.values():
        return Unused()
    digests = {*used, *(record.digest for record in records)}
    kept = {key for digest in digests if (found := known.get(digest)) for key in found.layers}
    free = sorted(key for key in layers.keys(instance) - kept if layers.is_ours(instance, key))
    return Unused(
        tuple(digest for digest in known if digest not in digests),
        tuple(free),
        tuple(folders.names(instance.downloads)),
    )


def download_bytes(instance: Instance) -> int:
    """What blobs that are being fetched, or were and are not needed any more, take on disk."""
    try:
        with os.scandir(instance.downloads) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    except FileNotFoundError:
        return 0


def collect(instance: Instance, what: Unused) -> None:
    """Remove what nothing needs. Manifests go first: what they name may then be missing."""
    try:
        for digest in what.manifests:
            durable.unlink(f"{instance.manifests}/{digest}{_SUFFIX}")
        for key in what.layers:
            layers.remove(instance, key)
        for name in what.downloads:
            durable.unlink(f"{instance.downloads}/{name}")
    except OSError as error:
        raise durable.failed(str(error.filename), "remove", error) from error
