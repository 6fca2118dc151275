"""From YAML text to plain values with their positions.

A strict subset of YAML with the scalars of the 1.2 core schema (see `scalar`): keys are unique strings; merge
keys, tags other than the core ones and NUL are refused; everything is limited in size.

Values are built directly from the events of the parser. A tree of nodes takes longer to build than to parse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeAlias

import yaml
from msgspec import Struct
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)

from vsprov.errors import Position, Problem
from vsprov.manifest.syntax.encoding import for_libyaml, hide, position_at, show
from vsprov.manifest.syntax.scalar import Scalar, ScalarError, plain, short
from vsprov.manifest.syntax.syntax_errors import MAX_DEPTH, TOO_DEEP, explain

MAX_TEXT = 16 * 1024 * 1024
"""Size of a file in bytes, or of a text in characters."""
MAX_SCALAR = 1024 * 1024
"""Size of a scalar in characters."""
MAX_NODES = 2_000_000
"""Values in a text, including those behind aliases. Limits memory use (about 0.3 kB per value)."""
MAX_ALIASED = 200_000
"""Values that aliases add to a text."""
MAX_DOCUMENTS = 20_000
MAX_PROBLEMS = 100
"""Problems after which reading a text stops."""

Value: TypeAlias = dict[str, Any] | list[Any] | Scalar
Path: TypeAlias = tuple[str | int, ...]
# The positions of the values inside a value. For a scalar that is not written as it would be printed (1.10,
# 0x1F, True), its text instead of further positions.
_Spots: TypeAlias = "dict[str | int, tuple[yaml.Mark, _Spots | str | None]]"

_Loader = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader


class Positions(Mapping[Path, Position]):
    """The position of each value of a document.

    The path () is the document itself. A value in a map has the position of its key, a value in a list its
    own. Values behind an alias have their position below the anchor.
    """

    __slots__ = ("_file", "_first_line", "_mark", "_spots")

    def __init__(self, file: str, first_line: int, mark: yaml.Mark, spots: _Spots | str | None) -> None:
        self._file = file
        self._first_line = first_line
        self._mark = mark
        self._spots = spots

    def __getitem__(self, path: Path) -> Position:
        mark, _ = self._find(path)
        return Position(self._file, self._first_line + mark.line, mark.column + 1)

    def source(self, path: Path) -> str | None:
        """The text of the scalar at `path` if that is not the printed value. KeyError for an unknown path."""
        _, inside = self._find(path)
        return inside if isinstance(inside, str) else None

    def _find(self, path: Path) -> tuple[yaml.Mark, _Spots | str | None]:
        mark, spots = self._mark, self._spots
        for part in path:
            if not isinstance(spots, dict) or part not in spots:
                raise KeyError(path)
            mark, spots = spots[part]
        return mark, spots

    def __iter__(self) -> Iterator[Path]:
        yield ()
        yield from _paths((), self._spots)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Document(Struct, frozen=True):
    """A document of a text. Aliases share objects with their anchors, so never modify the value."""

    value: Value
    positions: Mapping[Path, Position]

    def source(self, path: Path) -> str | None:
        """The text of the scalar at `path` if that is not the printed value, such as 1.10 or 0x1F."""
        positions = self.positions
        return positions.source(path) if isinstance(positions, Positions) and path in positions else None


def parse(text: str, file: str) -> tuple[list[Document], list[Problem]]:
    """The documents of a text, and its problems in the order of their positions.

    Empty documents are omitted. After a syntax error, reading continues at the next `---`. A refused value is
    kept as a string, so that the rest of the document can be checked.
    """
    if len(text) > MAX_TEXT:
        return [], [Problem(f"the text is larger than {MAX_TEXT >> 20} MiB", Position(file, 1, 1))]
    reader = _Reader(file)
    try:
        text = for_libyaml(text)
        if (hidden := hide(text)) is not None:
            text, reader.hides = hidden, True
        text = reader.printable(text)
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


def _paths(prefix: Path, spots: _Spots | str | None) -> Iterator[Path]:
    for part, (_, inner) in spots.items() if isinstance(spots, dict) else ():
        path = (*prefix, part)
        yield path
        yield from _paths(path, inner)


def _source(text: str, value: Scalar) -> str | None:
    """The text of a scalar that is not a string, unless the value is printed like this."""
    return None if text == _printed(value) else text


def _printed(value: Scalar) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


_DOCUMENT_START = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)

# Characters that YAML 1.2.2 (section 5.1) does not allow, and line breaks of libyaml that `for_libyaml` left.
_NOT_ALLOWED = "[^\t\n -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
_NOT_ALLOWED_OF_ASCII = "[^\t\n -~]"  # takes a hundredth of the time to compile

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS: dict[str, tuple[type, ...]] = {
    f"{_TAG}str": (str,),
    f"{_TAG}int": (int,),
    f"{_TAG}float": (float, int),
    f"{_TAG}bool": (bool,),
    f"{_TAG}null": (type(None),),
}


class _StopError(Exception):
    """Stops reading a document, at `index`."""

    def __init__(self, index: int) -> None:
        self.index = index


class _EnoughError(Exception):
    """Stops reading the text."""


class _Anchor(Struct):
    """The value of an anchor. `inside`: the number of values below it, None until it is complete."""

    value: Value
    inside: int | None
    spots: _Spots | str | None = None
    height: int = 0


class _Reader:
    """Collects the documents and problems of a text, which may be read in several parts."""

    def __init__(self, file: str) -> None:
        self.documents: list[Document] = []
        self.problems: list[Problem] = []
        self.hides = False  # whether the text is one that `hide` has changed
        self._file = file
        self._first_line = 1
        self._keys: set[str] = set()
        self._anchors: dict[str, _Anchor] = {}
        self._nodes = 0
        self._aliased = 0
        self._next: Callable[[], Any]

    def printable(self, text: str) -> str:
        """The text with U+FFFD in place of characters that are not allowed, which are reported."""
        not_allowed = re.compile(_NOT_ALLOWED_OF_ASCII if text.isascii() else _NOT_ALLOWED)
        for match in not_allowed.finditer(text):
            place = position_at(text, match.start(), self._file, 1)
            hint = "write it as an escape in double quotes, or remove it"
            self._report(f"character U+{ord(match[0]):04X} is not allowed", place, hint)
        return not_allowed.sub("\ufffd", text) if self.problems else text

    def read(self, text: str, first_line: int) -> int | None:
        """Read all documents. Returns None, or the index of the first syntax error."""
        self._first_line = first_line
        loader = _Loader(text)
        self._next = loader.get_event
        try:
            while (event := self._next()).__class__ is not StreamEndEvent:
                if event.__class__ is DocumentStartEvent:
                    self._document(event)
        except yaml.MarkedYAMLError as error:
            message, index, hint = explain(error, text)
            self._report(message, position_at(text, index, self._file, first_line), hint)
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

    def _value(self, event: Any, depth: int) -> tuple[Value, _Spots | str | None, int]:
        """The value that starts with the event, its spots and its height (0: scalar, 1: list of scalars)."""
        kind = event.__class__
        if kind is ScalarEvent:
            scalar = self._scalar(event)
            source = None if scalar.__class__ is str else _source(event.value, scalar)
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchor(scalar, 0, source)
            return scalar, source, 0
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
        spots: _Spots = {}
        anchor.spots = spots
        if isinstance(value, dict):
            anchor.height = self._fill_mapping(value, spots, depth + 1)
        else:
            anchor.height = self._fill_list(value, spots, depth + 1)
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
                message = f"duplicate key {short(key)} (lines {first} and {self._at(event).line})"
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
        """The key, or None after reporting that it is not a string."""
        if event.__class__ is not ScalarEvent:
            self._refuse(event, "keys must be strings", "write the key as a word or in quotes")
            self._value(event, depth)
            return None
        text: str = event.value
        unquoted = event.tag is None and event.implicit[0]
        if unquoted and event.anchor is None and text in self._keys:
            return text
        if unquoted and text == "<<":
            self._refuse(event, "merge keys are not supported", "repeat the keys, or use a template")
            return None
        key, _, _ = self._value(event, depth)
        if not isinstance(key, str):
            self._refuse(event, f"key {text[:60] or 'null'} is not a string", "quote the key")
            return None
        if unquoted:
            self._keys.add(key)
        return key

    def _scalar(self, event: Any) -> Scalar:
        text: str = show(event.value) if self.hides else event.value
        tag = event.tag
        unquoted = event.implicit[0]
        if len(text) > MAX_SCALAR:
            self._refuse(event, f"value larger than {MAX_SCALAR >> 20} MiB")
            return ""
        if not unquoted and "\0" in text:
            self._refuse(event, "NUL characters are not allowed, even escaped")
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
            self._refuse(event, f"{short(event.value)} is not a valid !!{event.tag.removeprefix(_TAG)}")
        return float(value) if event.tag == f"{_TAG}float" and isinstance(value, int) else value

    def _alias(self, event: Any, depth: int) -> tuple[Value, _Spots | str | None, int]:
        anchor = self._anchors.get(event.anchor)
        if anchor is None:
            hint = "quote a string that starts with '*'"
            self._refuse(event, f"undefined alias *{event.anchor}", hint)
            return f"*{event.anchor}", None, 0
        if anchor.inside is None:
            self._refuse(event, f"alias *{event.anchor} refers to itself")
            return f"*{event.anchor}", None, 0
        if depth + anchor.height > MAX_DEPTH:
            self._stop(event, TOO_DEEP)
        self._aliased += anchor.inside + 1
        if self._aliased > MAX_ALIASED:
            self._stop(event, f"aliases expand to more than {MAX_ALIASED} values")
        self._count(event, anchor.inside)
        return anchor.value, anchor.spots, anchor.height

    def _count(self, event: Any, values: int) -> None:
        self._nodes += values
        if self._nodes > MAX_NODES:
            self._refuse(event, f"more than {MAX_NODES} values", "split it into several files")
            raise _EnoughError

    def _refuse_tag(self, event: Any) -> None:
        tag = short(event.tag.replace(_TAG, "!!", 1))
        self._refuse(event, f"tag {tag} is not supported", "quote a string that starts with '!'")

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
            self.problems.append(Problem(f"stopped after {MAX_PROBLEMS} problems", position))
            raise _EnoughError
