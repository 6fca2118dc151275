"""The documents for users: manifests are valid, command lines, modules and the targets of links exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli import CHECKOUT
from vsprov.cli import program
from vsprov.manifest.load import load

PAGES = [CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((CHECKOUT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
END_OF_COMMAND = frozenset(("|", "||", "&&", ";", ">", ">>", "<"))


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(page.read_text()) if language in languages]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every simple command a page shows: after a prompt, in a script, within a sentence."""
    lines = [
        line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")
    ]
    lines += [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [" ".join(span.split()) for span in SPAN.findall(prose(page))]
    for line in lines:
        if not re.search(r"\b(vsprov|make) ", line):
            continue
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in (*words, ";"):
            if word not in END_OF_COMMAND:
                command.append(word)
                continue
            if command[:1] == ["sudo"]:
                del command[0]
            yield command
            command = []


def cases(program: str) -> list[tuple[str, tuple[str, ...]]]:
    """(page, words after the program's name) of each of its commands, once per page."""
    return sorted(
        {
            (page.relative_to(CHECKOUT).as_posix(), tuple(words[1:]))
            for page in PAGES
            for words in commands(page)
            if words[:1] == [program]
        }
    )


def shown(case: object) -> str:
    return " ".join(case) if isinstance(case, tuple) else str(case)


def manifests() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page, "yaml"):
            if "apiVersion:" in block:
                yield page.relative_to(CHECKOUT).as_posix(), block


@pytest.mark.parametrize(("page", "text"), list(manifests()))
def test_a_manifest_is_valid_and_without_a_warning(tmp_path: Path, page: str, text: str) -> None:
    """A server may use an image that another block of its page has."""
    images = re.findall(
        r"^kind: Image\nmetadata:\s+\{?name: ([a-z0-9-]+)", (CHECKOUT / page).read_text(), re.MULTILINE
    )
    file = tmp_path / "shown.yaml"
    file.write_text(text)
    manifest = load([str(file)], known_images=frozenset(images))
    assert manifest.objects
    assert manifest.warnings == ()


@pytest.mark.parametrize(("page", "words"), cases("vsprov"), ids=shown)
def test_a_command_line_is_one(page: str, words: tuple[str, ...]) -> None:
    """Its verb exists, takes these options, and has all the arguments it needs."""
    verb, *given = words
    if verb in ("--help", "VERB", "--show-completion", "--install-completion"):
        return
    if verb in program.GROUPS:
        verb = f"{verb} {given.pop(0)}"
    assert verb in program.VERBS
    program.load(verb).make_context(verb, [word for word in given if word != "--help"])


@pytest.mark.parametrize(("page", "words"), cases("make"), ids=shown)
def test_what_is_to_be_made_can_be_made(page: str, words: tuple[str, ...]) -> None:
    targets = re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            assert heading in slugs(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_modules_that_a_page_names_exist(page: Path) -> None:
    """Named from the checkout or from vsprov; NAME stands for any."""
    named = {span for span in SPAN.findall(prose(page)) if re.fullmatch(r"[\w/]+/\w+\.py", span)}
    for name in named - {span for span in named if "NAME" in span}:
        assert (CHECKOUT / name).exists() or (CHECKOUT / "vsprov" / name).exists(), name


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = (title.replace("`", "").lower() for title in HEADING.findall(prose(page)))
    return {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}


def test_every_page_of_the_documentation_can_be_reached_from_its_index() -> None:
    index = CHECKOUT / "docs/index.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(prose(index))}
    assert set((CHECKOUT / "docs").rglob("*.md")) - {index} <= linked


def test_the_parts_of_a_page_are_found() -> None:
    """So that a change of form does not leave the tests above with nothing to look at."""
    assert len(list(manifests())) >= 5
    assert len(cases("vsprov")) >= 40
    assert len(cases("make")) >= 3
