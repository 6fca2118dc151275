"""The documents that describe an OCI or Docker image: index, manifest, configuration.

They are not trusted. Each reader takes bytes and `label`, the name of the image in errors, and raises
ImageError for whatever violates the specifications: missing, null, of another type, too large, or ambiguous
(CVE-2021-41190).
https://github.com/opencontainers/image-spec, https://distribution.github.io/distribution/spec/manifest-v2-2/
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct, field

from vsprov.errors import ImageError
from vsprov.model.values import digests
from vsprov.model.values.names import parse_signal
from vsprov.model.values.units import UnitError, short
from vsprov.store.disk.progress import Progress
from vsprov.store.registry import untrusted_json
from vsprov.store.trees import limits
from vsprov.store.trees.limits import MOST_LAYERS

_DEEPEST = 4  # nested indexes

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_LAYER = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.v1\.tar(?:\+(?:gzip|zstd))?"
    r"|docker\.image\.rootfs\.diff\.tar(?:\.(?:gzip|zstd))?)",
    re.ASCII,
)
_FOREIGN = re.compile(r".*\.(?:nondistributable|foreign)\.")
_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")

# {`uname -m`: (architecture, variant) of images that run on it}, the best first; "" is no variant.
_MACHINES = {
    "x86_64": (("amd64", ""), ("amd64", "v1"), ("386", "")),
    "i686": (("386", ""),),
    "aarch64": (("arm64", "v8"), ("arm64", "")),
    "armv7l": (("arm", "v7"), ("arm", ""), ("arm", "v6"), ("arm", "v5")),
    "armv6l": (("arm", "v6"), ("arm", ""), ("arm", "v5")),
    "ppc64le": (("ppc64le", ""),),
    "riscv64": (("riscv64", ""),),
    "s390x": (("s390x", ""),),
}


class Descriptor(Struct, frozen=True):
    """A reference to a document or a layer: `digest` is its SHA-256 in hex, `size` its bytes."""

    media_type: str
    digest: str
    size: int


class Entry(Struct, frozen=True):
    """One image of an index, with its platform and names; "" and () if the index does not specify them."""

    descriptor: Descriptor
    os: str = ""
    architecture: str = ""
    variant: str = ""
    names: tuple[str, ...] = ()

    @property
    def platform(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Manifest(Struct, frozen=True):
    """The parts of one image; `layers` lowest first, `digest` is the SHA-256 of the manifest in hex."""

    digest: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


class ImageConfig(Struct, frozen=True):
    """The image's defaults for containers; (), {} and "" for what it does not specify.

    `diff_ids` are the SHA-256 (hex) of the uncompressed layers, lowest first.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    os: str = ""
    architecture: str = ""
    diff_ids: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The keys that servers use, in the form of image records, without empty ones."""
        keys = {
            "entrypoint": list(self.entrypoint),
            "command": list(self.command),
            "env": dict(self.env),
            "user": self.user,
            "workingDir": self.working_dir,
            "stopSignal": self.stop_signal,
        }
        return {key: value for key, value in keys.items() if value}


class Found(Struct, frozen=True):
    """An image as its source has it now.

    `digest` (hex) is that of the index or manifest that the name refers to.
    """

    digest: str
    manifest: Manifest
    config: ImageConfig


class Parts(Protocol):
    """Access to the parts of one image."""

    def find(self) -> Found:
        """The image as it is now. ImageError if there is none, or none for this machine."""

    def layer(self, descriptor: Descriptor, progress: Progress) -> str:
        """The path of a file with this layer, verified by size and SHA-256. Called from any thread."""


def read_index(data: bytes, label: str) -> tuple[Entry, ...]:
    """The entries of an index (in Docker: manifest list)."""
    content = untrusted_json.parse(data, label)
    if _kind(content, label) != "index":
        raise ImageError(f"{label}: expected an index, got a manifest")
    return tuple(_entry(raw, label) for raw in untrusted_json.many(content, "manifests", dict, label))


def _entry(raw: dict[str, Any], label: str) -> Entry:
    platform = untrusted_json.get(raw, "platform", dict, label) or {}
    annotations = untrusted_json.get(raw, "annotations", dict, label) or {}
    return Entry(
        descriptor=_descriptor(raw, label),
        os=untrusted_json.text(platform, "os", label),
        architecture=untrusted_json.text(platform, "architecture", label),
        variant=untrusted_json.text(platform, "variant", label),
        names=tuple(name for key in _NAMES if (name := untrusted_json.text(annotations, key, label))),
    )


def pick(index: tuple[Entry, ...], label: str) -> Descriptor:
    """The best image of an index for this machine. ImageError, with the platforms, if there is none."""
    images = [entry for entry in index if entry.descriptor.media_type in (*INDEXES, *MANIFESTS)]
    for architecture, variant in platforms():
        for entry in images:
            if (entry.os, entry.architecture, entry.variant) == ("linux", architecture, variant):
                return entry.descriptor
    if len(images) == 1 and not images[0].platform:
        return images[0].descriptor  # its configuration tells the platform
    offered = sorted({entry.platform or "unnamed" for entry in images} - {"unknown/unknown"})
    there = short(", ".join(offered), ascii) if offered else "none"
    raise ImageError(
        f"{label}: no image for {_this_machine()}; available: {there}",
        hint="name an image built for this machine",
    )


def platforms() -> tuple[tuple[str, str], ...]:
    """(architecture, variant) of the images that this machine can run, the best first."""
    machine = os.uname().machine
    return _MACHINES.get(machine, ((machine, ""),))


def _this_machine() -> str:
    return f"linux/{platforms()[0][0]}"


def read_manifest(data: bytes, digest: str, label: str) -> Manifest:
    """The manifest in `data`, which has the SHA-256 `digest`."""
    content = untrusted_json.parse(data, label)
    if _kind(content, label) != "manifest":
        raise ImageError(f"{label}: expected a manifest, got an index")
    config = _descriptor(untrusted_json.get(content, "config", dict, label) or {}, label)
    if config.media_type not in CONFIGS:
        raise ImageError(
            f"{label}: not an image but a {short(config.media_type, repr)}",
            hint="registries also hold charts, signatures and other artifacts: name an image",
        )
    layers = tuple(_descriptor(raw, label) for raw in untrusted_json.many(content, "layers", dict, label))
    check_layers(layers, label)
    return Manifest(digest, config, layers)


def check_layers(layers: tuple[Descriptor, ...], label: str) -> None:
    """Raise ImageError for an unsupported number, size or type of layers."""
    if not 1 <= len(layers) <= MOST_LAYERS:
        raise ImageError(f"{label}: it has {len(layers)} layers; 1 to {MOST_LAYERS} are supported")
    for layer in layers:
        _check_layer(layer, label)
    total = sum(layer.size for layer in layers)
    if total > limits.LIMITS.bytes:
        raise ImageError(f"{label}: its layers have {total} bytes; at most {limits.LIMITS.bytes} are allowed")


def _check_layer(layer: Descriptor, label: str) -> None:
    if _LAYER.fullmatch(layer.media_type):
        return
    kind = short(layer.media_type, repr)
    if "+encrypted" in layer.media_type:
        raise ImageError(
            f"{label}: a layer is encrypted ({kind})",
            hint="decrypt it first: skopeo copy --decryption-key KEY …",
        )
    if _FOREIGN.match(layer.media_type):
        raise ImageError(
            f"{label}: a layer is not in the registry but at its vendor's ({kind})",
            hint="Windows images have such layers: name an image for Linux",
        )
    raise ImageError(f"{label}: unsupported layer type {kind}")


def read_config(data: bytes, label: str) -> ImageConfig:
    """The configuration of an image, with the checksums of its layers."""
    content = untrusted_json.parse(data, label)
    config = untrusted_json.get(content, "config", dict, label) or {}
    rootfs = untrusted_json.get(content, "rootfs", dict, label) or {}
    working_dir = untrusted_json.text(config, "WorkingDir", label)
    return ImageConfig(
        entrypoint=_command(config, "Entrypoint", label),
        command=_command(config, "Cmd", label),
        env=_environment(untrusted_json.words(config, "Env", label)),
        user=_user(untrusted_json.text(config, "User", label)),
        working_dir=posixpath.normpath(f"/{working_dir.lstrip('/')}") if working_dir else "",
        stop_signal=_stop_signal(untrusted_json.text(config, "StopSignal", label), label),
        os=untrusted_json.text(content, "os", label),
        architecture=untrusted_json.text(content, "architecture", label),
        diff_ids=tuple(
            untrusted_json.sha256_hex(each, label)
            for each in untrusted_json.many(rootfs, "diff_ids", str, label)
        ),
    )


def _stop_signal(name: str, label: str) -> str:
    """The name, unchanged. ImageError if it is not a signal."""
    try:
        if name:
            parse_signal(name)
    except UnitError as error:
        raise ImageError(f"{label}: StopSignal: {short(name, repr)} is not a signal") from error
    return name


def _command(config: Mapping[str, Any], key: str, label: str) -> tuple[str, ...]:
    """A list of words; docker also accepts a single text, as one word."""
    if isinstance(config.get(key), str):
        word = untrusted_json.text(config, key, label)
        return (word,) if word else ()
    return untrusted_json.words(config, key, label)


def _environment(words: tuple[str, ...]) -> dict[str, str]:
    """The variables; as in podman, one without "=" is empty. No program can look up one without a name."""
    pairs = (word.partition("=") for word in words)
    return {name: value for name, _, value in pairs if name}


def _user(text: str) -> str:
    """USER[:GROUP]; as in docker, an empty user is root, and an empty group that of the user."""
    user, _, group = text.partition(":")
    return f"{user or 0}:{group}" if group else user


def follow(data: bytes, digest: str, fetch: Callable[[Descriptor], bytes], label: str) -> Found:
    """The image that a document (an index or a manifest) with the SHA-256 `digest` refers to.

    `fetch` returns the documents it refers to, which are verified here. ImageError if this machine cannot run
    the image, or if its documents are inconsistent.
    """
    here = digest
    for _ in range(_DEEPEST):
        if _kind(untrusted_json.parse(data, label), label) == "manifest":
            break
        picked = pick(read_index(data, label), label)
        data, here = _fetched(fetch, picked, label), picked.digest
    else:
        raise ImageError(f"{label}: its indexes are nested too deep: at most {_DEEPEST} levels are allowed")
    manifest = read_manifest(data, here, label)
    config = read_config(_fetched(fetch, manifest.config, label), label)
    check_together(manifest, config, label)
    return Found(digest, manifest, config)


def _fetched(fetch: Callable[[Descriptor], bytes], descriptor: Descriptor, label: str) -> bytes:
    if descriptor.size > untrusted_json.LIMIT:
        raise untrusted_json.too_large(label)
    data = fetch(descriptor)
    check_sum(data, descriptor.digest, label)
    return data


def check_sum(data: bytes, digest: str, label: str) -> None:
    """Raise ImageError unless `digest` (hex) is the SHA-256 of `data`."""
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise ImageError(
            f"{label}: expected {digests.full(digest)}, got {digests.full(found)}",
            hint="it was damaged or replaced where it is stored, or in transit",
        )


def check_together(manifest: Manifest, config: ImageConfig, label: str) -> None:
    """Raise ImageError unless manifest and configuration are consistent and fit this machine."""
    if len(config.diff_ids) != len(manifest.layers):
        raise ImageError(
            f"{label}: its manifest has {len(manifest.layers)} layers, its configuration "
            f"checksums for {len(config.diff_ids)}"
        )
    known = {architecture for architecture, _ in platforms()}
    if config.os not in ("", "linux") or config.architecture not in ("", *known):
        made_for = short(f"{config.os}/{config.architecture}", ascii)
        raise ImageError(
            f"{label}: built for {made_for}; this machine needs {_this_machine()}",
            hint="name an image built for this machine",
        )


def _kind(content: dict[str, Any], label: str) -> str:
    """ "index" or "manifest". ImageError unless media type and content agree."""
    media_type = untrusted_json.text(content, "mediaType", label)
    version = content.get("schemaVersion")
    if version is not True and (version == 1 or media_type.startswith(_SCHEMA_1)):
        raise ImageError(
            f"{label}: its manifest uses Docker schema 1, which cannot be verified",
            hint="push the image again with a current docker or skopeo",
        )
    if version != 2 or isinstance(version, bool):
        raise ImageError(f"{label}: expected schemaVersion 2, got {short(version, repr)}")
    is_index, is_manifest = "manifests" in content, "layers" in content or "config" in content
    if is_index and not is_manifest and media_type in ("", *INDEXES):
        return "index"
    if is_manifest and not is_index and media_type in ("", *MANIFESTS):
        return "manifest"
    raise ImageError(f"{label}: expected a manifest or an index, got neither or both")


def _descriptor(raw: dict[str, Any], label: str) -> Descriptor:
    size = raw.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise ImageError(f"{label}: expected a size in bytes, got {short(size, repr)}")
    digest = untrusted_json.sha256_hex(untrusted_json.text(raw, "digest", label), label)
    return Descriptor(untrusted_json.text(raw, "mediaType", label), digest, size)
