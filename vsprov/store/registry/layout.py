"""Images in directories: OCI layouts, and unpacked archives of `docker save`.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md. A directory may come from a hostile
archive: nothing in it may lead out of it, and only regular files are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterable
from typing import Any

from vsprov.errors import ImageError, reason
from vsprov.kernel.paths import open_host
from vsprov.model.values import digests
from vsprov.model.values.image_reference import parse_reference
from vsprov.model.values.units import UnitError, short
from vsprov.store.disk.progress import Progress
from vsprov.store.registry import oci_documents, untrusted_json
from vsprov.store.registry.oci_documents import Descriptor, Entry, Found, Manifest, Parts
from vsprov.store.trees.limits import MOST_LAYERS
from vsprov.store.trees.tree import unusable

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 1 << 20
_INDEX, _SAVED = "index.json", "manifest.json"


def archive_parts(folder: str, name: str | None = None) -> Parts:
    """The parts of an image in an OCI or `docker save` archive that was unpacked to `folder`.

    Raises ImageError if it is neither.
    """
    if os.path.lexists(f"{folder}/{_INDEX}"):
        return LayoutParts(folder, name)
    if os.path.lexists(f"{folder}/{_SAVED}"):
        return SavedParts(folder, name)
    raise ImageError(
        f"{_label(folder, name)}: not an image archive: it has neither {_INDEX} nor {_SAVED}",
        hint="for an archive of a root file system, use source: {tar: …}",
    )


class LayoutParts:
    """The parts of an image in an OCI layout: the one with the name `name`, or the only one."""

    def __init__(self, folder: str, name: str | None = None) -> None:
        self._folder = os.path.abspath(folder)
        self._name = name
        self._label = _label(folder, name)

    def find(self) -> Found:
        """The image with the name. ImageError, with the existing names, if there is none."""
        if os.path.isdir(self._folder) and not os.path.lexists(f"{self._folder}/oci-layout"):
            raise ImageError(f"{self._label}: not an OCI layout: it has no file oci-layout")
        layout = untrusted_json.parse(self._read("oci-layout"), self._label)
        version = untrusted_json.text(layout, "imageLayoutVersion", self._label)
        if not version.startswith("1."):
            raise ImageError(
                f"{self._label}: expected an OCI layout of version 1, got {short(version, repr)}"
            )
        top = self._top(oci_documents.read_index(self._read(_INDEX), self._label))
        if top.size > untrusted_json.LIMIT:
            raise untrusted_json.too_large(self._label)
        data = self._blob(top)
        oci_documents.check_sum(data, top.digest, self._label)
        return oci_documents.follow(data, top.digest, self._blob, self._label)

    def layer(self, descriptor: Descriptor, progress: Progress) -> str:
        """The path of the layer's blob, after verification."""
        fd = self._open("blobs", "sha256", descriptor.digest)
        try:
            _check(fd, descriptor, progress, self._label)
        finally:
            os.close(fd)
        return f"{self._folder}/blobs/sha256/{descriptor.digest}"

    def _top(self, entries: tuple[Entry, ...]) -> Descriptor:
        """The descriptor of the index or manifest that the name refers to."""
        found = [entry for entry in entries if _is_called(self._name, entry.names)]
        several = len({entry.names for entry in found}) > 1
        if not found or several:
            raise _which(self._label, self._name, [entry.names for entry in entries])
        if len({entry.descriptor.digest for entry in found}) == 1:
            return found[0].descriptor
        return oci_documents.pick(tuple(found), self._label)  # one image with an entry for each platform

    def _blob(self, descriptor: Descriptor) -> bytes:
        return self._read("blobs", "sha256", descriptor.digest)

    def _read(self, *names: str) -> bytes:
        fd = self._open(*names)
        try:
            return _limited(fd, self._label)
        finally:
            os.close(fd)

    def _open(self, *names: str) -> int:
        """A descriptor of a regular file in the layout; no component of its path may be a symbolic link."""
        try:
            with contextlib.ExitStack() as stack:
                here = open_host(self._folder, os.O_PATH | os.O_DIRECTORY, owners=False)
                stack.callback(os.close, here)
                for name in names[:-1]:
                    here = os.open(name, _FOLDER, dir_fd=here)
                    stack.callback(os.close, here)
                return _regular(os.open(names[-1], _FILE, dir_fd=here))
        except OSError as error:
            raise unusable(self._label, f"{'/'.join(names)}: open", error) from error


class SavedParts:
    """The parts of an image in an archive of `docker save`: the one with the tag `name`, or the only one.

    Its digest is a SHA-256 over its configuration and the checksums of its layers, so that it does not depend
    on how the image was saved.
    """

    def __init__(self, folder: str, name: str | None = None) -> None:
        self._folder = os.path.realpath(folder)
        self._name = name
        self._label = _label(folder, name)
        self._paths: dict[str, str] = {}  # {digest: path} of the layers

    def find(self) -> Found:
        """The image with the name; reads all of its layers."""
        fd = self._open(_SAVED)
        try:
            content = untrusted_json.parse_any(_limited(fd, self._label), self._label)
        finally:
            os.close(fd)
        saved = self._saved(untrusted_json.many({_SAVED: content}, _SAVED, dict, self._label))
        config_digest, config = self._config(untrusted_json.text(saved, "Config", self._label))
        names = untrusted_json.words(saved, "Layers", self._label)
        layers = tuple(self._layer(name) for name in names[: MOST_LAYERS + 1])
        oci_documents.check_layers(layers, self._label)
        identity = json.dumps({"config": config_digest.digest, "layers": config.diff_ids}, sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()
        manifest = Manifest(digest, config_digest, layers)
        oci_documents.check_together(manifest, config, self._label)
        return Found(digest, manifest, config)

    def layer(self, descriptor: Descriptor, progress: Progress) -> str:
        """The path of a layer that `find` has found, after verification."""
        path = self._paths.get(descriptor.digest)
        if path is None:
            raise ImageError(f"{self._label}: it has no layer {digests.full(descriptor.digest)}")
        fd = self._open(path)
        try:
            _check(fd, descriptor, progress, self._label)
        finally:
            os.close(fd)
        return f"{self._folder}/{path}"

    def _saved(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        tags = [untrusted_json.words(entry, "RepoTags", self._label) for entry in entries]
        found = [entry for entry, names in zip(entries, tags, strict=True) if _is_called(self._name, names)]
        if len(found) != 1:
            raise _which(self._label, self._name, tags)
        return found[0]

    def _config(self, name: str) -> tuple[Descriptor, oci_documents.ImageConfig]:
        fd = self._open(self._inside(name))
        try:
            data = _limited(fd, self._label)
        finally:
            os.close(fd)
        digest = hashlib.sha256(data).hexdigest()
        return Descriptor(oci_documents.CONFIGS[1], digest, len(data)), oci_documents.read_config(
            data, self._label
        )

    def _layer(self, name: str) -> Descriptor:
        """The descriptor of a layer's file; old versions of docker save shared layers as symbolic links."""
        path = self._inside(name)
        fd = self._open(path)
        try:
            digest = hashlib.sha256()
            size = 0
            while block := os.read(fd, _BLOCK):
                digest.update(block)
                size += len(block)
        except OSError as error:
            raise ImageError(f"{self._label}: {path}: read: {reason(error)}") from error
        finally:
            os.close(fd)
        self._paths[digest.hexdigest()] = path
        return Descriptor(oci_documents.DOCKER_LAYER, digest.hexdigest(), size)

    def _inside(self, name: str) -> str:
        """The path of `name` in the directory, with links resolved. ImageError if that is outside."""
        path = os.path.realpath(os.path.join(self._folder, name))
        if not path.startswith(f"{self._folder}/"):
            raise ImageError(f"{self._label}: {short(name, repr)} leads out of the archive")
        return path.removeprefix(f"{self._folder}/")

    def _open(self, path: str) -> int:
        try:
            return _regular(os.open(f"{self._folder}/{path}", _FILE))
        except OSError as error:
            raise ImageError(f"{self._label}: {short(path, ascii)}: open: {reason(error)}") from error


def _label(folder: str, name: str | None) -> str:
    return folder if name is None else f"{folder}:{name}"


def _is_called(wanted: str | None, names: Iterable[str]) -> bool:
    return wanted is None or any(wanted == name or _full(wanted) == _full(name) for name in names)


def _full(name: str) -> str:
    """The full name if it is a valid reference: docker.io/library/debian:12 for `debian:12`."""
    try:
        return str(parse_reference(name))
    except UnitError:
        return name


def _which(label: str, wanted: str | None, names: list[tuple[str, ...]]) -> ImageError:
    there = ", ".join(" = ".join(each) or "one without a name" for each in names)
    held = f"it contains {short(there, ascii)}" if there else "it contains none"
    if wanted is None:
        return ImageError(f"{label}: no image selected: {held}", hint="set name to one of them")
    return ImageError(f"{label}: it has no single image named {short(wanted, ascii)}: {held}")


def _regular(fd: int) -> int:
    """`fd`, if it is a regular file; otherwise closes it and raises OSError."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(0, "not a regular file")


def _limited(fd: int, label: str) -> bytes:
    if os.fstat(fd).st_size > untrusted_json.LIMIT:
        raise untrusted_json.too_large(label)
    try:
        return os.read(fd, untrusted_json.LIMIT + 1)
    except OSError as error:
        raise ImageError(f"{label}: read: {reason(error)}") from error


def _check(fd: int, descriptor: Descriptor, progress: Progress, label: str) -> None:
    """Raise ImageError unless a layer has the size and the SHA-256 in its descriptor."""
    there = os.fstat(fd).st_size
    if there != descriptor.size:
        raise ImageError(f"{label}: layer: expected {descriptor.size} bytes, got {there}")
    found, done = hashlib.sha256(), 0
    try:
        while block := os.read(fd, _BLOCK):
            found.update(block)
            done += len(block)
            progress(f"check {digests.short(descriptor.digest)}", done, descriptor.size)
    except OSError as error:
        raise ImageError(f"{label}: read a layer: {reason(error)}") from error
    if found.hexdigest() != descriptor.digest:
        raise ImageError(
            f"{label}: layer: expected {digests.full(descriptor.digest)}, "
            f"got {digests.full(found.hexdigest())}",
            hint="the file is damaged: copy the image again",
        )
