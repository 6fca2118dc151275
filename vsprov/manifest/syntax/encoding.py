"""From the bytes of a file to text that libyaml reads as YAML 1.2 and JSON mean it.

YAML 1.2.2 (section 5.2) and JSON files may be in UTF-8, UTF-16 or UTF-32. libyaml reads YAML 1.1, in which
more characters are line breaks.
"""

from __future__ import annotations

import json
import re

from vsprov.errors import ManifestError, Position, Problem

# Longer marks first: that of UTF-16 is the beginning of that of UTF-32.
_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
# Characters that are line breaks for libyaml, but not in YAML 1.2, and private ones to read in their place.
_HIDDEN = {"\x85": "\U0010fff0", "\u2028": "\U0010fff1", "\u2029": "\U0010fff2"}
_HIDE = str.maketrans(_HIDDEN)
_SHOW = str.maketrans({hidden: shown for shown, hidden in _HIDDEN.items()})
_MARK_OF_DOCUMENT = re.compile(r"^\ufeff(?=---|%|#)|(?<=^\.\.\.\n)\ufeff", re.MULTILINE)
# An escape of JSON, or two for one character, which is a pair of surrogates (RFC 8259, section 7).
_ESCAPE = re.compile(r"\\(u[dD][89abAB]..\\u[dD][c-fC-F]..|.)")


def decode(data: bytes, file: str) -> str:
    """The text of a file. Raises ManifestError with the position of the first invalid byte."""
    encoding = _encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        problem = Problem(
            f"byte 0x{data[error.start]:02x} is not {encoding[:6].rstrip('-').upper()}",
            position_at(before, len(before), file, 1),
            hint="save the file as UTF-8",
        )
        raise ManifestError([problem]) from None


def _encoding(data: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding
    # Without a mark, the first character is an ASCII one.
    zeros = [byte == 0 for byte in data[:4]]
    if zeros[:3] == [True, True, True]:
        return "utf-32-be"
    if zeros[1:4] == [True, True, True]:
        return "utf-32-le"
    return "utf-16-be" if zeros[:1] == [True] else "utf-16-le" if zeros[1:2] == [True] else "utf-8"


def for_libyaml(text: str) -> str:
    """The text with line breaks as \\n, and without what libyaml does not know of newer versions."""
    text = text.removeprefix("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\ufeff" in text:
        text = _MARK_OF_DOCUMENT.sub("", text)
    if "\\ud" in text or "\\uD" in text:
        text = _with_whole_characters(text)
    return text


def hide(text: str) -> str | None:
    """The text with private characters for those that only libyaml reads as line breaks; None if it has none.

    None also for a text that has these private characters itself.
    """
    if text.isascii() or any(hidden in text for hidden in _HIDDEN.values()):
        return None
    hidden = text.translate(_HIDE)
    return None if hidden == text else hidden


def show(text: str) -> str:
    """A scalar of a text that `hide` has changed, with its original characters."""
    return text.translate(_SHOW)


def _with_whole_characters(text: str) -> str:
    """JSON text with one escape for each character, as YAML has it; any other text unchanged."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _ESCAPE.sub(_as_one_escape, text)


def _as_one_escape(escape: re.Match[str]) -> str:
    if len(escape[1]) == 1:
        return escape[0]
    character: str = json.loads(f'"{escape[0]}"')
    return f"\\U{ord(character):08x}"


def position_at(text: str, index: int, file: str, first_line: int) -> Position:
    """The position of an index in a text whose first line is `first_line` of the file."""
    return Position(file, first_line + text.count("\n", 0, index), index - text.rfind("\n", 0, index))
