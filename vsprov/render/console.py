"""A server's console on our terminal."""

from __future__ import annotations

import codecs

from vsprov.render.screen import clean


class Harmless:
    """Turns pieces of a log into pieces that show everything and control nothing; line ends and tabs stay.

    The log is the server's own to write: what it holds must not move the cursor, set titles or ask the
    terminal to answer.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def feed(self, block: bytes) -> bytes:
        return _shown(self._decoder.decode(block))

    def end(self) -> bytes:
        """What is left of a character that was cut in the middle."""
        return _shown(self._decoder.decode(b"", final=True))


def _shown(text: str) -> bytes:
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(clean(part) for part in line.split("\t")) for line in lines).encode()
