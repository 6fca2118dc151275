"""Images on disk: records by name, and manifests by digest.

In the state root of an instance:

    images/<name>.json          owner mark; sealed: the digest that the name refers to, and its spec
    manifests/<sha256>.json     sealed: the layers, the bind mounts over them, the defaults for servers

A manifest is kept while a record or a server refers to its digest: a server keeps running from the image that
it was started from, even if the name refers to another one by now.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict

from vsprov.errors import ConflictError, FailedError, ImageError, reason
from vsprov.model.values import digests
from vsprov.plan.observed import PROTECTION_MARK
from vsprov.store.disk import durable, folders, marks, sealed
from vsprov.store.disk.marks import Owner
from vsprov.store.hostimage import Bind
from vsprov.store.instance import Instance
from vsprov.store.layers import layers
from vsprov.store.layers.layers import is_digest

_SUFFIX = ".json"
_writing = threading.Lock()  # images imported concurrently may have the same digest


class Contents(Struct, frozen=True):
    """The contents of an image: keys of layers, lowest first; bind mounts over them; and defaults for servers
    (`model.defaults`).
    """

    layers: tuple[str, ...]
    binds: tuple[Bind, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


class ImageRecord(Struct, frozen=True):
    """An image as imported.

    `owners` are the sets that have it in their manifests, () without a valid mark, `protected` the names
    of those that protect it from removal. `spec` is the spec at the time of the import. `problem` is "" if
    the record is readable and its contents are complete. `contents` is None if they are not, `digest` is ""
    if the record is not readable.
    """

    name: str
    owners: tuple[Owner, ...]
    digest: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    contents: Contents | None = None
    problem: str = ""
    protected: tuple[str, ...] = ()


def observe(instance: Instance, known: Mapping[str, Contents | None] | None = None) -> dict[str, ImageRecord]:
    """All image records by name. Damage is reported in `problem`, not raised.

    `known` is the result of `manifests`, if the caller has it.
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
        owners = marks.read_owners(path)
    except OSError as error:
        return ImageRecord(name, (), problem=f"owner mark: {reason(error)}")
    content, problem = sealed.read(path)
    if content is None:
        return ImageRecord(name, owners, problem=problem)
    digest, spec, fingerprint = (content.get(key) for key in ("digest", "spec", "fingerprint"))
    source = spec.get("source") if isinstance(spec, dict) else None
    if not (is_digest(digest) and spec and isinstance(source, dict) and isinstance(fingerprint, str)):
        return ImageRecord(name, owners, problem=f"{name}{_SUFFIX} is not an image record")
    made_of, problem = known.get(str(digest)), ""
    if made_of is None:
        made_of, problem = _contents(instance, str(digest))
    missing = [key for key in made_of.layers if key not in there] if made_of else []
    damaged = [key for key in made_of.layers if layers.is_damaged(instance, key)] if made_of else []
    problems = [f"layer {key} is missing" for key in missing] + [f"layer {key} is damaged" for key in damaged]
    problem = problem or "; ".join(problems)
    protected = _protected(path, owners)
    return ImageRecord(name, owners, str(digest), spec, fingerprint, made_of, problem, protected)


def contents(instance: Instance, digest: str) -> Contents:
    """The contents of the image with this digest. FailedError if they are not (or no longer) in the store."""
    found, problem = _contents(instance, digest)
    if found is None:
        hint = "apply the manifest of its image, or vsprov image pull"
        raise FailedError(f"image {digests.short(digest)}: {problem}", hint=hint)
    return found


def manifests(instance: Instance) -> dict[str, Contents | None]:
    """{digest: contents} of all manifests; None for one that cannot be read."""
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
        return None, f"{digest}{_SUFFIX} is not an image manifest"
    if not all(map(is_digest, keys)):
        return None, f"{digest}{_SUFFIX} contains an invalid layer key"
    return Contents(keys, binds, config), ""


def is_whole(instance: Instance, digest: str) -> bool:
    """Whether the manifest of this digest and all of its layers are in the store, and not damaged."""
    found, _ = _contents(instance, digest)
    return found is not None and all(layers.is_whole(instance, key) for key in found.layers)


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
    """Write the manifest and the record of an image whose layers are in the store, safe from power failure.

    Raises ConflictError if the record has another owner.
    """
    path = folders.place(instance.images, name, _SUFFIX)
    owners = refuse_foreign(instance, name, owner, spec)
    if not is_digest(digest):
        raise ImageError(f"Image/{name}: {digest!r} is not a sha256")
    manifest = {
        "layers": list(made_of.layers),
        "binds": [asdict(bind) for bind in made_of.binds],
        "config": dict(made_of.config),
    }
    record = {"digest": digest, "spec": dict(spec), "fingerprint": fingerprint}
    where = f"{instance.manifests}/{digest}{_SUFFIX}"
    with _writing:
        # Nothing is lost if new files are damaged by a power failure: one wait for the disk instead of four.
        replaces = os.path.lexists(where) or os.path.lexists(path)
        durable.write_file(where, sealed.seal(manifest), flush=replaces)
        kept = marks.find_mark(path, PROTECTION_MARK)
        more = {PROTECTION_MARK: kept} if kept else {}
        durable.write_file(
            path, sealed.seal(record), owner=marks.of_owners(owners), more=more, flush=replaces
        )
        if not replaces:
            durable.flush_all(instance.images)


def refuse_foreign(instance: Instance, name: str, owner: Owner, spec: Mapping[str, Any]) -> tuple[Owner, ...]:
    """The owners of the record `name` when `owner` has imported it with `spec`.

    Raises ConflictError if it has other owners. Sets share a record whose spec is the same in all of them.
    """
    path = folders.place(instance.images, name, _SUFFIX)
    try:
        found = marks.read_owners(path)
    except FileNotFoundError:
        return (owner,)
    except OSError as error:
        raise durable.failed(path, "read its owner mark", error) from error
    if found == (owner,):
        return found
    content, _ = sealed.read(path)
    equal = content is None or content.get("spec") == dict(spec)
    if equal and found and found[0].instance == owner.instance:
        return tuple(dict.fromkeys((*found, owner)))
    whose = f"belongs to {', '.join(map(str, found))}" if found else "has no owner mark"
    raise ConflictError(
        f"Image/{name}: {path} {whose}: left untouched",
        hint="rename the image, or move that file away",
    )


def write_owners(instance: Instance, name: str, owners: tuple[Owner, ...]) -> None:
    """Replace the owners of a record of this instance, safe from power failure."""
    path = folders.place(instance.images, name, _SUFFIX)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            marks.write_owner(fd, marks.of_owners(owners), path)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise durable.failed(path, "change its owner mark", error) from error


def write_protection(instance: Instance, name: str, sets: Iterable[str]) -> None:
    """Record the names of the sets that protect an image from removal."""
    path = folders.place(instance.images, name, _SUFFIX)
    marks.write_mark(path, PROTECTION_MARK, ",".join(sets))


def _protected(path: str, owners: tuple[Owner, ...]) -> tuple[str, ...]:
    """The sets in the mark, without those that no longer have the image."""
    sets = (marks.find_mark(path, PROTECTION_MARK) or "").split(",")
    return tuple(sorted({owner.set for owner in owners}.intersection(sets)))


def remove(instance: Instance, name: str) -> None:
    """Remove a record, if it exists, but not its layers. ConflictError if it belongs to another instance."""
    path = folders.place(instance.images, name, _SUFFIX)
    try:
        owner = marks.read_owner(path)
        if owner is None or owner.instance != instance.name:
            raise ConflictError(f"Image/{name}: {path} has no mark of {instance.name}: left untouched")
        os.unlink(path)
        durable.flush_folder(instance.images)
    except FileNotFoundError:
        return
    except OSError as error:
        raise durable.failed(path, "remove", error) from error


class Unused(Struct, frozen=True):
    """What is not used: digests of manifests, keys of layers, and names of downloads."""

    manifests: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    downloads: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.manifests or self.layers or self.downloads)


def unused(instance: Instance, used: Iterable[str] = (), without: Iterable[str] = ()) -> Unused:
    """What is not used by an image record, except those in `without`, nor by `used`, the digests that servers
    run on.

    Nothing, while any record or manifest is not readable: it may refer to anything.
    """
    left_out = set(without)
    known = manifests(instance)
    records = [record for name, record in observe(instance, known).items() if name not in left_out]
    if any(not record.digest for record in records) or None in known.values():
        return Unused()
    needed = {*used, *(record.digest for record in records)}
    kept = {key for digest in needed if (found := known.get(digest)) for key in found.layers}
    free = sorted(key for key in layers.keys(instance) - kept if layers.is_ours(instance, key))
    return Unused(
        tuple(digest for digest in known if digest not in needed),
        tuple(free),
        tuple(folders.names(instance.downloads)),
    )


def download_bytes(instance: Instance) -> int:
    """Bytes on disk of complete and incomplete downloads."""
    try:
        with os.scandir(instance.downloads) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    except FileNotFoundError:
        return 0


def collect(instance: Instance, what: Unused) -> None:
    """Remove what is not used. Manifests first: no manifest may refer to a layer that is missing."""
    try:
        for digest in what.manifests:
            durable.unlink(f"{instance.manifests}/{digest}{_SUFFIX}")
        for key in what.layers:
            layers.remove(instance, key)
        for name in what.downloads:
            durable.unlink(f"{instance.downloads}/{name}")
    except OSError as error:
        raise durable.failed(str(error.filename), "remove", error) from error
