"""Images in folders: OCI layouts, and what `docker save` and `skopeo copy … docker-archive:` write.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md. A folder may come from an archive of a
stranger: nothing in it leads out of it, and only regular files are read.
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
from vsprov.model import digests
from vsprov.model.image_reference import parse_reference
from vsprov.model.units import UnitError, short
from vsprov.store.disk.progress import Progress
from vsprov.store.registry import oci_documents, untrusted_json
from vsprov.store.registry.oci_documents import Descriptor, Entry, Found, Manifest, Parts

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 1 << 20
_INDEX, _SAVED = "index.json", "manifest.json"


def archive_parts(folder: str, name: str | None = None) -> Parts:
    """The parts of an image in an archive, of OCI or of `docker save`, that was unpacked to `folder`.

    Raises ImageError when it is neither.
    """
    if os.path.lexists(f"{folder}/{_INDEX}"):
        return LayoutParts(folder, name)
    if os.path.lexists(f"{folder}/{_SAVED}"):
        return SavedParts(folder, name)
    raise ImageError(
        f"{_label(folder, name)}: an archive of an image is wanted: it has neither {_INDEX} nor {_SAVED}",
        hint="for the archive of a root file system, write source: {tar: …}",
    )


class LayoutParts:
    """The parts of an image in an OCI layout: the one called `name`, or the only one there is."""

    def __init__(self, folder: str, name: str | None = None) -> None:
        self._folder = os.path.realpath(folder)
        self._name = name
        self._label = _label(folder, name)

    def find(self) -> Found:
        """What the layout holds under the name; ImageError, with the names there are, for any other."""
        if os.path.isdir(self._folder) and not os.path.lexists(f"{self._folder}/oci-layout"):
            raise ImageError(f"{self._label}: an OCI layout is wanted: there is no file oci-layout in it")
        layout = untrusted_json.parse(self._read("oci-layout"), self._label)
        version = untrusted_json.text(layout, "imageLayoutVersion", self._label)
        if not version.startswith("1."):
            raise ImageError(
                f"{self._label}: version 1 of OCI layouts is known: it is {short(version, repr)}"
            )
        top = self._top(oci_documents.read_index(self._read(_INDEX), self._label))
        if top.size > untrusted_json.LIMIT:
            raise untrusted_json.too_large(self._label)
        data = self._blob(top)
        oci_documents.check_sum(data, top.digest, self._label)
        return oci_documents.follow(data, top.digest, self._blob, self._label)

    def layer(self, descriptor: Descriptor, progress: Progress) -> str:
        """The path of the layer's blob, which has been read and is right."""
        fd = self._open("blobs", "sha256", descriptor.digest)
        try:
            _check(fd, descriptor, progress, self._label)
        finally:
            os.close(fd)
        return f"{self._folder}/blobs/sha256/{descriptor.digest}"

    def _top(self, entries: tuple[Entry, ...]) -> Descriptor:
        """The descriptor of the index or the manifest that the name leads to."""
        found = [entry for entry in entries if _is_called(self._name, entry.names)]
        several = len({entry.names for entry in found}) > 1
        if not found or several:
            raise _which(self._label, self._name, [entry.names for entry in entries])
        if len({entry.descriptor.digest for entry in found}) == 1:
            return found[0].descriptor
        return oci_documents.pick(tuple(found), self._label)  # one image, and an entry for each machine

    def _blob(self, descriptor: Descriptor) -> bytes:
        return self._read("blobs", "sha256", descriptor.digest)

    def _read(self, *names: str) -> bytes:
        fd = self._open(*names)
        try:
            return _limited(fd, self._label)
        finally:
            os.close(fd)

    def _open(self, *names: str) -> int:
        """A regular file in the layout, open; neither it nor the folders on the way may be links."""
        try:
            with contextlib.ExitStack() as stack:
                here = os.open(self._folder, _FOLDER)
                stack.callback(os.close, here)
                for name in names[:-1]:
                    here = os.open(name, _FOLDER, dir_fd=here)
                    stack.callback(os.close, here)
                return _regular(os.open(names[-1], _FILE, dir_fd=here))
        except OSError as error:
            raise ImageError(f"{self._label}: {'/'.join(names)}: open: {reason(error)}") from error


class SavedParts:
    """The parts of an image that `docker save` wrote: the one with the tag `name`, or the only one there is.

    Its digest is a sha256 over what makes it the image it is: its configuration and the sums of its layers,
    so that it is the same however and whenever it is saved.
    """

    def __init__(self, folder: str, name: str | None = None) -> None:
        self._folder = os.path.realpath(folder)
        self._name = name
        self._label = _label(folder, name)
        self._paths: dict[str, str] = {}  # of the layers, by digest

    def find(self) -> Found:
        """What the archive holds under the name; every layer of it is read."""
        fd = self._open(_SAVED)
        try:
            content = untrusted_json.parse_any(_limited(fd, self._label), self._label)
        finally:
            os.close(fd)
        saved = self._saved(untrusted_json.many({_SAVED: content}, _SAVED, dict, self._label))
        config_digest, config = self._config(untrusted_json.text(saved, "Config", self._label))
        names = untrusted_json.words(saved, "Layers", self._label)
        layers = tuple(self._layer(name) for name in names[: oci_documents.MOST_LAYERS + 1])
        oci_documents.check_layers(layers, self._label)
        identity = json.dumps({"config": config_digest.digest, "layers": config.diff_ids}, sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()
        manifest = Manifest(digest, config_digest, layers)
        oci_documents.check_together(manifest, config, self._label)
        return Found(digest, manifest, config)

    def layer(self, descriptor: Descriptor, progress: Progress) -> str:
        """The path of a layer that `find` has found, which has been read again and is right."""
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
        """The descriptor of a layer's file; the older docker made links of layers that images share."""
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
        """Where a name leads, all links followed, seen from the folder; ImageError when that is outside."""
        path = os.path.realpath(os.path.join(self._folder, name))
        if not path.startswith(f"{self._folder}/"):
            raise ImageError(f"{self._label}: {short(name, repr)} leads out of the archive: that is refused")
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
    """The name in full where it can be that of a registry: docker.io/library/debian:12 for `debian:12`."""
    try:
        return str(parse_reference(name))
    except UnitError:
        return name


def _which(label: str, wanted: str | None, names: list[tuple[str, ...]]) -> ImageError:
    there = ", ".join(" = ".join(each) or "one without a name" for each in names)
    held = f"it holds {short(there, ascii)}" if there else "it holds none"
    if wanted is None:
        return ImageError(f"{label}: which image of it is meant is not said: {held}", hint="name one of them")
    return ImageError(f"{label}: no one image in it is called {short(wanted, ascii)}: {held}")


def _regular(fd: int) -> int:
    """`fd`, when it is a regular file; else it is closed, and OSError says so."""
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
    """Read a layer, and raise ImageError unless it has the size and the sha256 that its descriptor says."""
    there = os.fstat(fd).st_size
    if there != descriptor.size:
        raise ImageError(f"{label}: a layer of {descriptor.size} bytes is wanted: it has {there}")
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
