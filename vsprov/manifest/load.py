"""From paths to a manifest, which is read once and checked as a whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from vsprov.errors import ManifestError, Position, Problem
from vsprov.manifest import files
from vsprov.manifest.checks.manifest import check
from vsprov.manifest.problems import dotted
from vsprov.manifest.resolve import Item, Origin, resolve
from vsprov.manifest.syntax import text
from vsprov.manifest.syntax.text import Document
from vsprov.model import fields
from vsprov.model.fields import Path
from vsprov.model.kinds.server import Server
from vsprov.model.limits.knobs import BY_PATH
from vsprov.model.objects import API_VERSION, Object
from vsprov.model.values import digests

MOST_PROBLEMS = 200


@dataclass(frozen=True, slots=True)
class Manifest:
    """Objects in the order of the files. Manifests are equal if their objects are."""

    objects: tuple[Object, ...] = ()
    warnings: tuple[Problem, ...] = field(default=(), compare=False)
    digest: str = field(default="", compare=False)  # "sha256:…" over the texts read, after templates
    files: tuple[str, ...] = field(default=(), compare=False)
    items: Mapping[str, Item] = field(default_factory=dict, compare=False, repr=False)

    def position(self, address: str, path: str | Path = ()) -> Position | None:
        """The position of the object's value at `path` ("spec.resources.memory.max"), possibly in its quota.

        For a value that is not set, the position of the nearest key around it. None for an unknown object or
        one without a text.
        """
        item = self.items.get(address)
        return item.position(_parts(path)) if item else None

    def located(self, problem: Problem) -> Problem:
        """The problem with its position, and with the path of its key as the manifest has it."""
        item = self.items.get(problem.subject)
        if problem.position or item is None:
            return problem
        path = _parts(problem.path)
        written = item.raw_path(path)
        name = problem.path if written == path else dotted(written)
        return replace(problem, position=item.position(path), path=name)

    def origin(self, address: str, path: str | Path) -> Origin:
        """Where the object's value at `path` comes from. Raises KeyError for an unknown object."""
        return self.items[address].origin(_parts(path))


def load(
    paths: Sequence[str],
    *,
    recursive: bool = False,
    template: bool = False,
    values: Sequence[str] = (),
    sets: Sequence[str] = (),
    known_images: frozenset[str] | None = frozenset(),
    references: bool = True,
) -> Manifest:
    """The manifest in the files and directories `paths` (`-`: standard input).

    `template` renders all files, not only *.j2; `values` are files and `sets` settings `a.b=c` for templates.
    `known_images` are images that servers may use without a document; if None, unknown images cause only a
    warning. Without `references`, objects that others refer to may be missing. Raises ManifestError with all
    problems in the order of their positions, and UsageError for malformed `sets`.
    """
    names = files.find(paths, recursive)
    variables: Mapping[str, Any] = {}
    if values or sets:
        from vsprov.manifest.template import load_values

        variables = load_values(values, sets)
    problems: list[Problem] = []
    documents: list[Document] = []
    digest = hashlib.sha256()
    for name in names:
        try:
            content, label = files.read(name), name
            if template or name.endswith(".j2"):
                from vsprov.manifest.template import render as render_template

                content, label = render_template(content, name, variables), f"{name} (rendered)"
        except ManifestError as error:
            problems += error.problems
            continue
        data = content.encode(errors="surrogatepass")
        digest.update(b"%d:" % len(data) + data)
        found, wrong = text.parse(content, label)
        documents += found
        problems += wrong
    items, wrong = resolve(documents)
    problems += [*wrong, *check(items, known_images, references=references)]
    return _manifest(items, problems, digests.full(digest.hexdigest()), tuple(names))


def load_text(content: str, label: str) -> Manifest:
    """The manifest in a text, where objects that others refer to may be missing. Raises ManifestError."""
    documents, problems = text.parse(content, label)
    items, wrong = resolve(documents)
    problems += [*wrong, *check(items, None, references=False)]
    return _manifest(items, problems, "", (label,))


def load_documents(documents: Iterable[Any], *, known_images: frozenset[str] = frozenset()) -> Manifest:
    """The manifest from documents that `render` returned, as stored in a saved plan. Raises ManifestError."""
    read = [Document(document, {}) for document in documents]
    try:
        data = json.dumps([document.value for document in read], sort_keys=True, default=str)
        digest = hashlib.sha256(data.encode(errors="surrogatepass")).hexdigest()
        items, wrong = resolve(read)
        return _manifest(items, [*wrong, *check(items, known_images)], digests.full(digest), ())
    except RecursionError:
        raise ManifestError([Problem("the documents are nested too deeply")]) from None


def render(manifest: Manifest) -> list[dict[str, Any]]:
    """The documents of the manifest with all defaults and merged quotas; they load as an equal manifest."""
    return [document_of(one) for one in manifest.objects]


def document_of(one: Object) -> dict[str, Any]:
    """The object as a document of a manifest."""
    metadata: dict[str, Any] = {"name": one.name}
    if one.labels:
        metadata["labels"] = dict(one.labels)
    if one.annotations:
        metadata["annotations"] = dict(one.annotations)
    if one.renamed_from is not None:
        metadata["renamedFrom"] = one.renamed_from
    return {"apiVersion": API_VERSION, "kind": one.kind, "metadata": metadata, "spec": fields.write(one.spec)}


def explain(manifest: Manifest) -> list[tuple[str, str, str, str]]:
    """(address, path, value as text, origin) of every value in the rendered documents."""
    out = []
    for one in manifest.objects:
        item = manifest.items[one.address]
        for path, value in _leaves(document_of(one), ()):
            if path[0] in ("apiVersion", "kind"):
                continue
            origin = item.origin(path)
            where = f"{origin.text} ({origin.position})" if origin.position else origin.text
            out.append((one.address, dotted(path), _shown(one, path, value), where))
    return out


def _manifest(
    items: Sequence[Item], problems: list[Problem], digest: str, names: tuple[str, ...]
) -> Manifest:
    order = {name: i for i, name in enumerate(names)}
    problems.sort(key=lambda problem: _place(problem, order))
    if any(problem.severity == "error" for problem in problems):
        raise ManifestError(_capped(problems))
    objects = tuple(item.object for item in items if item.object is not None)
    return Manifest(objects, tuple(problems), digest, names, {item.address: item for item in items})


def _place(problem: Problem, order: Mapping[str, int]) -> tuple[int, int, int]:
    if problem.position is None:
        return -1, 0, 0
    return (
        order.get(problem.position.file.removesuffix(" (rendered)"), -1),
        problem.position.line,
        problem.position.column,
    )


def _capped(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MOST_PROBLEMS:
        return problems
    kept = [problem for problem in problems if problem.severity == "error"][:MOST_PROBLEMS]
    return [*kept, Problem(f"{len(problems) - len(kept)} more problems not shown")]


def _leaves(value: Any, path: Path) -> Iterable[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for i, inner in enumerate(value):
            yield from _leaves(inner, (*path, i))
    else:
        yield path, value


def _shown(one: Object, path: Path, value: Any) -> str:
    under = 2 if isinstance(one.spec, Server) else 1
    knob = BY_PATH.get(".".join(str(part) for part in path[under:])) if path[0] == "spec" else None
    if knob is not None:
        return knob.kind.format(knob.kind.parse(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_PART = re.compile(r'\[([0-9]+)\]|\[("(?:[^"\\]|\\.)*")\]|\.?([^.\[]+)')


def _parts(path: str | Path) -> Path:
    """("spec", "mounts", 0, "target") for `spec.mounts[0].target`."""
    if not isinstance(path, str):
        return path
    return tuple(int(i) if i else json.loads(key) if key else word for i, key, word in _PART.findall(path))
