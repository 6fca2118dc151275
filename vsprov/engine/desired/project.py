"""The project file `vsprov.yaml`, which names the set that the objects of a repository belong to."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from vsprov.errors import ManifestError, Problem, UsageError
from vsprov.manifest.files import PROJECT
from vsprov.manifest.syntax.text import Document

DEFAULT_SET = "default"
KEYS = ("set",)
_SET_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)


def owner_set(given: str | None, paths: Sequence[str]) -> str:
    """The set of an apply: the given one, or that of the project file, or "default".

    Raises UsageError for an invalid name, ManifestError for an invalid project file.
    """
    if given:
        return _checked(given, "--set-name")
    for folder in folders(paths):
        path = os.path.join(folder, PROJECT)
        if os.path.isfile(path):
            return _read_set(path)
    return DEFAULT_SET


def folders(paths: Sequence[str]) -> list[str]:
    """Where the project file and the lock file may be: in or beside the first path, and in the current
    directory; in the order they are searched.
    """
    first = paths[0] if paths and paths[0] != "-" else "."
    inside = [first] if os.path.isdir(first) else []
    return list(dict.fromkeys([*inside, os.path.dirname(os.path.abspath(first)), "."]))


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
