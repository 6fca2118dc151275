"""YAML text to plain values, each with its place in the text.

YAML with the scalars of its 1.2 core schema (see `scalar`), and stricter: keys are strings and occur once, no
merge keys, no tags but the core ones, no NUL, limits on everything.

Values are built straight from the parser's events; a tree of nodes in between costs more than the parsing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)

from vsprov.errors import ManifestError, Position, Problem
from vsprov.manifest.scalar import Scalar, ScalarError, plain, short
from vsprov.manifest.syntax_errors import MAX_DEPTH, TOO_DEEP, explain

MAX_TEXT = 16 * 1024 * 1024
"""Bytes of a file, characters of a text."""
MAX_SCALAR = 1024 * 1024
"""Characters of one scalar."""
MAX_NODES = 2_000_000
"""Values in one text, aliases followed; bounds the memory (about 0.3 kB each)."""
MAX_ALIASED = 200_000
"""Values that aliases may add to one text."""
MAX_DOCUMENTS = 20_000
MAX_PROBLEMS = 100
"""After so many problems the rest of a text is not read."""

Value: TypeAlias = dict[str, Any] | list[Any] | Scalar
Path: TypeAlias = tuple[str | int, ...]
_Spots: TypeAlias = "dict[str | int, tuple[yaml.Mark, _Spots | None]]"

_Loader = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader


class Positions(Mapping[Path, Position]):
    """Where each value of a document begins.

    The path () is the document itself; a value in a mapping has the position of its key, a value in a list
    its own. What an alias brings in keeps the position it has under its anchor.
    """

    __slots__ = ("_file", "_first_line", "_mark", "_spots")

    def __init__(self, file: str, first_line: int, mark: yaml.Mark, spots: _Spots | None) -> None:
        self._file = file
        self._first_line = first_line
        self._mark = mark
        self._spots = spots

    def __getitem__(self, path: Path) -> Position:
        mark, spots = self._mark, self._spots
        for part in path:
            if spots is None or part not in spots:
                raise KeyError(path)
            mark, spots = spots[part]
        return Position(self._file, self._first_line + mark.line, mark.column + 1)

    def __iter__(self) -> Iterator[Path]:
        yield ()
        yield from _paths((), self._spots)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text. Aliases share their object with the anchor: never change it in place."""

    value: Value
    positions: Mapping[Path, Position]


def decode(data: bytes, file: str) -> str:
    """The text of a UTF-8 file. Raises ManifestError with the place of the first byte that is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        problem = Problem(
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            _place(before, len(before), file, 1),
            hint="save the file as UTF-8" + (", it looks like UTF-16" if wide else ""),
        )
        raise ManifestError([problem]) from None


def parse(text: str, file: str) -> tuple[list[Document], list[Problem]]:
    """The documents of a text and, in the order of the lines, all that is wrong; never raises for bad text.

    Empty documents are left out. After a syntax error reading goes on at the next `---`. Where a single value
    is refused, its text stands in the document, so that the rest can still be checked.
    """
    if len(text) > MAX_TEXT:
        return [], [Problem(f"the text is larger than {MAX_TEXT >> 20} MiB", Position(file, 1, 1))]
    reader = _Reader(file)
    try:
        text = reader.printable(text.removeprefix("\ufeff"))
        start, first_line = 0, 1
        while (stopped := reader.read(text[start:] if start else text, first_line)) is not None:
            resume = _DOCUMENT_START.search(text, start + max(stopped, 1))
            if resume is None:
                break
            first_line += text.count("\n", start, resume.start())
            start = resume.start()
    except _EnoughError:
        pass
    top = Position(file, 1, 1)
    return reader.documents, sorted(reader.problems, key=lambda problem: problem.position or top)


def _paths(prefix: Path, spots: _Spots | None) -> Iterator[Path]:
    for part, (_, inner) in (spots or {}).items():
        path = (*prefix, part)
        yield path
        yield from _paths(path, inner)


def _place(text: str, index: int, file: str, first_line: int) -> Position:
    return Position(file, first_line + text.count("\n", 0, index), index - text.rfind("\n", 0, index))


_DOCUMENT_START = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)

# All but what YAML 1.2.2 (section 5.1) allows, and the line breaks that the parser counts but editors do not:
# after one of these every position would name the wrong line.
_NOT_ALLOWED = re.compile(
    "[^\t\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|\r(?!\n)"
)

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS: dict[str, tuple[type, ...]] = {
    f"{_TAG}str": (str,),
    f"{_TAG}int": (int,),
    f"{_TAG}float": (float, int),
    f"{_TAG}bool": (bool,),
    f"{_TAG}null": (type(None),),
}


class _StopError(Exception):
    """This document cannot be read further; `index` is how far it was read."""

    def __init__(self, index: int) -> None:
        self.index = index


class _EnoughError(Exception):
    """Nothing more is to be read."""


@dataclass(slots=True)
class _Anchor:
    """What an anchor stands for; `inside`, the number of values below it, is None until it is complete."""

    value: Value
    inside: int | None
    spots: _Spots | None = None
    height: int = 0


class _Reader:
    """Collects the documents and the problems of one text, which may be read in several pieces."""

    def __init__(self, file: str) -> None:
        self.documents: list[Document] = []
        self.problems: list[Problem] = []
        self._file = file
        self._first_line = 1
        self._keys: set[str] = set()
        self._anchors: dict[str, _Anchor] = {}
        self._nodes = 0
        self._aliased = 0
        self._next: Callable[[], Any]

    def printable(self, text: str) -> str:
        """The text with a stand-in for each character that is not allowed, each reported."""
        for match in _NOT_ALLOWED.finditer(text):
            place = _place(text, match.start(), self._file, 1)
            hint = "write it as an escape in double quotes, or remove it"
            self._report(f"character U+{ord(match[0]):04X} is not allowed", place, hint)
        return _NOT_ALLOWED.sub("\ufffd", text) if self.problems else text

    def read(self, text: str, first_line: int) -> int | None:
        """Reads documents to the end (None) or to the first broken one (the index where reading ended)."""
        self._first_line = first_line
        loader = _Loader(text)
        self._next = loader.get_event
        try:
            while (event := self._next()).__class__ is not StreamEndEvent:
                if event.__class__ is DocumentStartEvent:
                    self._document(event)
        except yaml.MarkedYAMLError as error:
            message, index, hint = explain(error, text)
            self._report(message, _place(text, index, self._file, first_line), hint)
            return error.problem_mark.index if error.problem_mark else len(text)
        except _StopError as stop:
            return stop.index
        finally:
            loader.dispose()
        return None

    def _document(self, start: Any) -> None:
        event: Any = self._next()
        self._anchors = {}
        if len(self.documents) == MAX_DOCUMENTS:
            self._refuse(start, f"more than {MAX_DOCUMENTS} documents")
            raise _EnoughError
        value, spots, _ = self._value(event, 0)
        if value is None and event.value == "" and event.tag is None:
            return
        positions = Positions(self._file, self._first_line, event.start_mark, spots)
        self.documents.append(Document(value, positions))

    def _value(self, event: Any, depth: int) -> tuple[Value, _Spots | None, int]:
        """The value that begins with the event, its spots, its height (0: a scalar, 1: a list of these)."""
        kind = event.__class__
        if kind is ScalarEvent:
            scalar = self._scalar(event)
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchor(scalar, 0)
            return scalar, None, 0
        if kind is AliasEvent:
            return self._alias(event, depth)
        if depth == MAX_DEPTH:
            self._stop(event, TOO_DEEP)
        mapping = kind is MappingStartEvent
        if event.tag is not None and event.tag != _TAG + ("map" if mapping else "seq"):
            self._refuse_tag(event)
        value: dict[str, Any] | list[Any] = {} if mapping else []
        anchor = _Anchor(value, None)
        if event.anchor is not None:
            self._anchors[event.anchor] = anchor
        before = self._nodes
        anchor.spots = {}
        if isinstance(value, dict):
            anchor.height = self._fill_mapping(value, anchor.spots, depth + 1)
        else:
            anchor.height = self._fill_list(value, anchor.spots, depth + 1)
        anchor.inside = self._nodes - before
        return value, anchor.spots, anchor.height

    def _fill_mapping(self, value: dict[str, Any], spots: _Spots, depth: int) -> int:
        highest = 0
        while (event := self._next()).__class__ is not MappingEndEvent:
            key = self._key(event, depth)
            item, inner, height = self._value(self._next(), depth)
            self._count(event, 1)
            if height > highest:
                highest = height
            if key is None:
                continue
            if key in spots:
                first = self._first_line + spots[key][0].line
                message = f"key {short(key)} stands twice, in lines {first} and {self._at(event).line}"
                self._refuse(event, message, "remove one of them")
                continue
            value[key] = item
            spots[key] = (event.start_mark, inner)
        return highest + 1

    def _fill_list(self, value: list[Any], spots: _Spots, depth: int) -> int:
        highest = 0
        while (event := self._next()).__class__ is not SequenceEndEvent:
            item, inner, height = self._value(event, depth)
            self._count(event, 1)
            if height > highest:
                highest = height
            spots[len(value)] = (event.start_mark, inner)
            value.append(item)
        return highest + 1

    def _key(self, event: Any, depth: int) -> str | None:
        """The key, or None (reported) if it is not a string."""
        if event.__class__ is not ScalarEvent:
            self._refuse(event, "a key must be a string", "write the key out as one word or in quotes")
            self._value(event, depth)
            return None
        text: str = event.value
        unquoted = event.tag is None and event.implicit[0]
        if unquoted and event.anchor is None and text in self._keys:
            return text
        if unquoted and text == "<<":
            self._refuse(event, "merge keys are not supported", "write the keys out, or use a template")
            return None
        key, _, _ = self._value(event, depth)
        if not isinstance(key, str):
            self._refuse(event, f"the key {text[:60] or 'null'} is not a string", "put the key in quotes")
            return None
        if unquoted:
            self._keys.add(key)
        return key

    def _scalar(self, event: Any) -> Scalar:
        text: str = event.value
        tag = event.tag
        unquoted = event.implicit[0]
        if len(text) > MAX_SCALAR:
            self._refuse(event, f"a value of more than {MAX_SCALAR >> 20} MiB")
            return ""
        if not unquoted and "\0" in text:
            self._refuse(event, "a NUL character is not allowed, not even as an escape")
        if tag is not None and tag not in _SCALAR_TAGS:
            self._refuse_tag(event)
        elif tag in (None, f"{_TAG}str") and not unquoted:
            return text
        else:
            try:
                return self._tagged(event, plain(text)) if tag else plain(text)
            except ScalarError as error:
                self._refuse(event, str(error), error.hint)
        return text

    def _tagged(self, event: Any, value: Scalar) -> Scalar:
        if type(value) not in _SCALAR_TAGS[event.tag]:
            self._refuse(event, f"{short(event.value)} is no !!{event.tag.removeprefix(_TAG)}")
        return float(value) if event.tag == f"{_TAG}float" and isinstance(value, int) else value

    def _alias(self, event: Any, depth: int) -> tuple[Value, _Spots | None, int]:
        anchor = self._anchors.get(event.anchor)
        if anchor is None:
            hint = "quote a '*' that is meant as text"
            self._refuse(event, f"no anchor &{event.anchor} stands before this alias", hint)
            return f"*{event.anchor}", None, 0
        if anchor.inside is None:
            self._refuse(event, f"the alias *{event.anchor} stands within its own anchor")
            return f"*{event.anchor}", None, 0
        if depth + anchor.height > MAX_DEPTH:
            self._stop(event, TOO_DEEP)
        self._aliased += anchor.inside + 1
        if self._aliased > MAX_ALIASED:
            self._stop(event, f"aliases stand for more than {MAX_ALIASED} values")
        self._count(event, anchor.inside)
        return anchor.value, anchor.spots, anchor.height

    def _count(self, event: Any, values: int) -> None:
        self._nodes += values
        if self._nodes > MAX_NODES:
            self._refuse(event, f"more than {MAX_NODES} values in one text", "split it into several files")
            raise _EnoughError

    def _refuse_tag(self, event: Any) -> None:
        tag = short(event.tag.replace(_TAG, "!!", 1))
        self._refuse(event, f"the tag {tag} is not supported", "quote a '!' that is meant as text")

    def _at(self, event: Any) -> Position:
        return Position(self._file, self._first_line + event.start_mark.line, event.start_mark.column + 1)

    def _stop(self, event: Any, message: str) -> NoReturn:
        self._refuse(event, message)
        raise _StopError(event.start_mark.index)

    def _refuse(self, event: Any, message: str, hint: str = "") -> None:
        self._report(message, self._at(event), hint)

    def _report(self, message: str, position: Position, hint: str = "") -> None:
        self.problems.append(Problem(message, position, hint=hint))
        if len(self.problems) == MAX_PROBLEMS:
            self.problems.append(Problem(f"{MAX_PROBLEMS} problems found, the rest was not read", position))
            raise _EnoughError
