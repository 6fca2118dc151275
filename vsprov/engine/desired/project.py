"""The project file `vsprov.yaml`, which names the set that the objects of a repository belong to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from vsprov.errors import ManifestError, Problem, UsageError
from vsprov.manifest.files import PROJECT, STDIN
from vsprov.manifest.syntax.text import Document

DEFAULT_SET = "default"
KEYS = ("set",)
_SET_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)


class Project(Struct, frozen=True):
    """The project of a file: the path of the project file, and the name of the set in it.

    Files without a project file have `path` "" and belong to the set "default".
    """

    path: str = ""
    set_name: str = DEFAULT_SET

    def __str__(self) -> str:
        return f"{self.path} (set {self.set_name})" if self.path else f"no project (set {self.set_name})"


def owner_set(given: str | None, files: Sequence[str]) -> str:
    """The set of the manifests `files`: the given one, or that of their project.

    Raises UsageError for an invalid name and for files of different sets, ManifestError for an invalid
    project file.
    """
    if given:
        return _checked(given, "--set-name")
    first, project = "", Project()
    found: dict[str, Project] = {}
    for file in files:
        folder = _folder(file)
        if folder not in found:
            found[folder] = _project_of(folder)
        if first and found[folder].set_name != project.set_name:
            raise UsageError(
                f"manifests of different sets: {_shown(first)} belongs to {project}, "
                f"{_shown(file)} to {found[folder]}",
                hint="apply them one after the other, or specify the set with --set-name",
            )
        first, project = first or file, project if first else found[folder]
    return project.set_name


def project_folder(folder: str) -> str | None:
    """The nearest directory with a project file, from the absolute path `folder` upward.

    Raises UsageError if the file belongs to another user, because it decides what `--prune` removes.
    """
    owners = {0, os.geteuid(), os.stat(folder).st_uid, _sudo_user()}
    for place in upward(folder):
        path = os.path.join(place, PROJECT)
        if not os.path.isfile(path):
            continue
        owner = os.stat(path).st_uid
        if owner not in owners:
            raise UsageError(
                f"{path}: the project file belongs to another user (UID {owner})",
                hint="remove it, or specify the set with --set-name",
            )
        return place
    return None


def _sudo_user() -> int:
    """The user who ran sudo(8); root if nobody did."""
    given = os.environ.get("SUDO_UID", "")
    return int(given) if given.isascii() and given.isdigit() else 0


def upward(folder: str) -> Iterator[str]:
    """The absolute path `folder` and the directories above it."""
    yield folder
    while (above := os.path.dirname(folder)) != folder:
        folder = above
        yield folder


def folders(files: Iterable[str]) -> list[str]:
    """The directories of files, without symbolic links, each once; standard input has none."""
    return list(dict.fromkeys(_folder(file) for file in files if file != STDIN))


def _folder(file: str) -> str:
    return "" if file == STDIN else os.path.realpath(os.path.dirname(file))


def _project_of(folder: str) -> Project:
    place = project_folder(folder) if folder else None
    if place is None:
        return Project()
    path = os.path.join(place, PROJECT)
    return Project(path, _read_set(path))


def _shown(file: str) -> str:
    return "standard input" if file == STDIN else file


def _read_set(path: str) -> str:
    from vsprov.manifest import files
    from vsprov.manifest.syntax import text

    documents, problems = text.parse(files.read(path, "the project file"), path)
    if problems:
        raise ManifestError(problems)
    value = documents[0].value if documents else {}
    if not isinstance(value, dict) or not isinstance(value.get("set", ""), str):
        raise ManifestError(
            [Problem("not a project file: expected a map with a name at `set`", subject=path)]
        )
    if documents:
        _refuse_unknown_keys(documents[0])
    return _checked(value["set"], f"{path}: set") if value.get("set") else DEFAULT_SET


def _refuse_unknown_keys(document: Document) -> None:
    from vsprov.manifest.problems import problem_at
    from vsprov.model.suggest import did_you_mean

    problems = []
    for key in document.value if isinstance(document.value, dict) else ():
        if key not in KEYS and not key.startswith("x-"):
            close = did_you_mean(key, KEYS) or f"; known here: {', '.join(KEYS)}"
            problems.append(problem_at(document, (key,), f"unknown key{close}"))
    if problems:
        raise ManifestError(problems)


def _checked(name: str, where: str) -> str:
    if not _SET_NAME.fullmatch(name):
        raise UsageError(
            f"{where}: {name!r} is not a valid name",
            hint="use at most 63 lowercase letters, digits, dots and dashes",
        )
    return name
