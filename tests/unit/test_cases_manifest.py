"""Each file of tests/cases/manifest is a manifest, and below it, as comments, what comes of it.

`#= problems` is followed by the lines a user sees, `#= rendered` by the normalised documents, `#= explained`
by where each value comes from. With VSPROV_ACCEPT=1 the files are rewritten with what comes of them now.
"""

from __future__ import annotations

import os
import pathlib
import re

import pytest

from vsprov.errors import ManifestError, Problem
from vsprov.manifest.load import explain, load, render
from vsprov.manifest.syntax.dump import to_yaml

CASES = pathlib.Path(__file__).parents[1] / "cases" / "manifest"
FILES = sorted(CASES.glob("*.yaml"))


def lines(problems: tuple[Problem, ...]) -> list[str]:
    out = []
    for problem in problems:
        out.append(f"{problem.severity}: {problem}")
        if problem.hint:
            out.append(f"  hint: {problem.hint}")
    return out


def outcome(text: str, section: str) -> list[str]:
    """What comes of the manifest `text`, in the working directory."""
    pathlib.Path("m.yaml").write_text(text)
    here = os.getcwd()
    try:
        manifest = load(["m.yaml"])
    except ManifestError as error:
        return lines(error.problems)
    if section == "rendered":
        return to_yaml(render(manifest)).replace(here, "/HERE").splitlines()
    if section == "explained":
        return [
            f"{address} {path}: {value}  <- {origin}" for address, path, value, origin in explain(manifest)
        ]
    return lines(manifest.warnings)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_comes_of_a_manifest_is_what_stands_below_it(
    file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, section, expected = re.split(r"^#= (problems|rendered|explained)\n", file.read_text(), flags=re.M)
    got = outcome(text, section)
    if os.environ.get("VSPROV_ACCEPT"):
        below = "".join(f"# {line}".rstrip() + "\n" for line in got)
        file.write_text(f"{text}#= {section}\n{below}")
        return
    assert got == [line[2:] for line in expected.splitlines()]


def test_there_are_cases() -> None:
    assert len(FILES) > 20
