"""What an output stream can show, and safe output of untrusted text."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from vsprov.errors import FailedError, reason

_SGR = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}

# Control characters (C0 and C1), which terminals execute, and those that change the direction of text
# (CVE-2021-42574).
_UNSAFE = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0x61C,
    0x200E,
    0x200F,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]
_VISIBLE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSAFE}
_VISIBLE |= {ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r", 0x1B: "\\e"}
_VISIBLE |= {
    code: f"\\x{code - 0xDC00:02x}" for code in range(0xDC80, 0xDD00)
}  # bytes that are not valid UTF-8


class Screen(Struct, frozen=True):
    """What an output stream can show.

    `width` is in columns; `color` and `unicode`: whether they may be used.
    """

    terminal: bool = False
    color: bool = False
    unicode: bool = False
    width: int = 80

    def paint(self, text: str, *styles: str) -> str:
        """The text in these styles; unchanged without colors."""
        codes = ";".join(_SGR[style] for style in styles if style)
        return f"\x1b[{codes}m{text}\x1b[0m" if self.color and codes and text else text

    def sign(self, sign: str, plain: str) -> str:
        """The sign, or `plain` if the stream cannot show it."""
        return sign if self.unicode else plain


def screen_of(stream: Any, environment: Mapping[str, str] = os.environ, *, color: bool = True) -> Screen:
    """What a stream can show; `stream` may be None, as sys.stdout is if it was closed at the start.

    `color=False` and NO_COLOR turn colors off; FORCE_COLOR turns them on where the stream is no terminal.
    """
    try:
        terminal = stream is not None and stream.isatty()
    except ValueError:
        terminal = False
    dumb = environment.get("TERM", "dumb") == "dumb"
    forced = environment.get("FORCE_COLOR", "") not in ("", "0")
    return Screen(
        terminal=terminal,
        color=color and not environment.get("NO_COLOR") and (forced or (terminal and not dumb)),
        unicode=_speaks_utf8(stream, environment),
        width=_width(stream, environment),
    )


def _speaks_utf8(stream: Any, environment: Mapping[str, str]) -> bool:
    # Python uses UTF-8 in the C locale (PEP 540), but the terminal may not.
    word = next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)), "C")
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    return (
        encoding == "utf8" and word.partition(".")[0] not in ("C", "POSIX")
    ) or "UTF8" in word.upper().replace("-", "")


def _width(stream: Any, environment: Mapping[str, str]) -> int:
    columns = environment.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def clean(text: object) -> str:
    """The text on one line, with control characters and line ends replaced by visible escapes."""
    return str(text).translate(_VISIBLE)


def write(stream: Any, text: str) -> None:
    """Write to an output stream, with escapes for what its encoding lacks; do nothing if it is closed.

    Raises BrokenPipeError if the reader has gone, FailedError for other errors.
    """
    if stream is None:
        return
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FailedError(f"write the output: {reason(error)}") from error


def out(text: str) -> None:
    """Write a line to standard output."""
    write(sys.stdout, text if text.endswith("\n") or not text else f"{text}\n")


def err(text: str) -> None:
    """Write a line to standard error, unbuffered. Raises BrokenPipeError if the reader has gone.

    Other errors are ignored, so that work goes on: there is no other place to report them.
    """
    if sys.stderr is None:
        return
    try:
        write(sys.stderr, f"{text}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        raise
    except (OSError, FailedError):
        return
