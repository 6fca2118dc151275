"""Console output of a server, made safe for a terminal."""

from __future__ import annotations

import codecs

from vsprov.render.screen import clean


class TerminalFilter:
    """Replaces control characters in a stream by visible escapes; line ends and tabs stay.

    A server writes what it likes to its console: it must not move the cursor, set titles or make the
    terminal send answers.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def feed(self, block: bytes) -> bytes:
        return _filtered(self._decoder.decode(block))

    def end(self) -> bytes:
        """The rest: an incomplete character at the end of the stream."""
        return _filtered(self._decoder.decode(b"", final=True))


def _filtered(text: str) -> bytes:
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(clean(part) for part in line.split("\t")) for line in lines).encode()
