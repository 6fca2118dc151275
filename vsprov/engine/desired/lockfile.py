"""The lock file `vsprov.lock.yaml`: the digests of a repository's image tags when it was written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from vsprov.engine.desired.project import folders, project_folder, upward
from vsprov.errors import ManifestError, Problem, UsageError
from vsprov.manifest.files import LOCK
from vsprov.manifest.load import Manifest
from vsprov.model.kinds.image import Image
from vsprov.model.objects import Object
from vsprov.model.sources import OciSource
from vsprov.model.values import digests
from vsprov.model.values.image_reference import parse_reference

HEAD = "# Written by `vsprov image lock`: the digest of each tag. Commit this file.\n"


def write_lock(manifest: Manifest) -> tuple[str, dict[str, str]]:
    """Write the lock file of the manifest; (its path, {reference: "sha256:…"}).

    It is in the directory of the project file, or else in that of the manifest. Raises UsageError for
    manifests in several places, ImageError if a reference cannot be resolved, FailedError if the file cannot
    be written.
    """
    import yaml

    from vsprov.store.disk.output_file import write_output
    from vsprov.store.registry.parts import RegistryParts  # loads a library for HTTP

    path = _shown(os.path.join(_place(manifest.files), LOCK))
    found: dict[str, str] = {}
    for oci in sorted(_tagged(manifest.objects), key=_key):
        parts = RegistryParts(parse_reference(oci.ref or ""), "", oci.insecure)
        found[_key(oci)] = digests.full(parts.find().digest)
    text = HEAD + yaml.safe_dump({"images": found}, sort_keys=True)
    write_output(path, text.encode(), "the lock file", mode=0o644, replaces=_is_lock)
    return path, found


def locked(manifest: Manifest, *, must: bool) -> tuple[Object, ...]:
    """The objects, with the digests that the lock file has for their tags.

    With `must`, raises ManifestError for all tags that are not in the lock file.
    """
    paths = _lock_files(manifest.files)
    known = _read_all(paths)
    out, problems = [], []
    for one in manifest.objects:
        oci = one.spec.source.oci if isinstance(one.spec, Image) else None
        if oci is not None and _is_tagged(oci):
            digest = known.get(_key(oci))
            if digest is not None and isinstance(one.spec, Image):
                source = replace(one.spec.source, oci=replace(oci, digest=digest))
                one = replace(one, spec=replace(one.spec, source=source))
            elif must:
                message = f"{oci.ref} is not in {' or '.join(paths)}" if paths else f"there is no {LOCK}"
                hint = "create it with: vsprov image lock PATH"
                key = "spec.source.oci.ref"
                place = manifest.position(one.address, key)
                problems.append(Problem(message, place, key, one.address, hint))
        out.append(one)
    if problems:
        raise ManifestError(problems)
    return tuple(out)


def _place(files: Sequence[str]) -> str:
    """The directory of the project file, or else of the manifests. UsageError for standard input alone."""
    places = {project_folder(folder) or folder for folder in folders(files)}
    if len(places) > 1:
        raise UsageError(
            f"image lock: the manifests are in several projects: {', '.join(sorted(places))}",
            hint="lock them one after the other",
        )
    if not places:
        raise UsageError(
            "image lock: standard input has no directory for the lock file", hint="specify files"
        )
    return places.pop()


def _lock_files(files: Sequence[str]) -> list[str]:
    """For each directory of manifests the nearest lock file, up to its project's directory."""
    found = []
    for folder in folders(files):
        top = project_folder(folder) or folder
        for place in upward(folder):
            path = os.path.join(place, LOCK)
            if os.path.isfile(path):
                found.append(_shown(path))
                break
            if place == top:
                break
    return list(dict.fromkeys(found))


def _shown(path: str) -> str:
    """The path, relative if it is below the current directory."""
    try:
        return path.removeprefix(os.path.join(os.getcwd(), ""))
    except FileNotFoundError:  # the current directory was removed
        return path


def _read_all(paths: Iterable[str]) -> Mapping[str, str]:
    """The digests in all of the lock files. ManifestError if two files disagree."""
    known: dict[str, str] = {}
    source: dict[str, str] = {}
    for path in paths:
        for reference, digest in _read(path).items():
            if known.setdefault(reference, digest) != digest:
                message = f"{reference}: has another digest than in {source[reference]}"
                raise ManifestError([Problem(message, subject=path)])
            source.setdefault(reference, path)
    return known


def _tagged(objects: Iterable[Object]) -> list[OciSource]:
    sources = [one.spec.source.oci for one in objects if isinstance(one.spec, Image)]
    unique = {_key(oci): oci for oci in sources if oci is not None and _is_tagged(oci)}
    return list(unique.values())


def _is_tagged(oci: OciSource) -> bool:
    return oci.ref is not None and oci.digest is None and not parse_reference(oci.ref).digest


def _key(oci: OciSource) -> str:
    return str(parse_reference(oci.ref or ""))


def _is_digest(given: object) -> bool:
    return isinstance(given, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", given) is not None


def _is_lock(path: str) -> bool:
    try:
        _read(path)
    except ManifestError:
        return False
    return True


def _read(path: str) -> Mapping[str, str]:
    from vsprov.manifest import files
    from vsprov.manifest.syntax import text

    documents, problems = text.parse(files.read(path, "the lock file"), path)
    if problems:
        raise ManifestError(problems)
    value: Any = documents[0].value if documents else {}
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, dict) or not all(map(_is_digest, images.values())):
        message = "not a lock file: expected a map with references and their digests at `images`"
        raise ManifestError([Problem(message, subject=path)])
    return images
