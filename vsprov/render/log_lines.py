"""Lines of the consoles of servers for people, and as JSON."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from vsprov.render.console import TerminalFilter
from vsprov.render.screen import Screen

_COLORS = ("cyan", "yellow", "green", "bold")
_TIME = 24  # characters


def rfc3339(time: int) -> str:
    """A time in microseconds, in UTC with milliseconds."""
    found = datetime.fromtimestamp(time // 1_000_000, UTC).replace(microsecond=time % 1_000_000)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Printer:
    """Makes the output of lines: with the name of the server if there are several, and with times on request.

    A line that has not ended is continued, unless another one has to be printed first.
    """

    def __init__(self, servers: Collection[str], screen: Screen, *, times: bool) -> None:
        width = max(map(len, servers), default=0)
        self._names = {
            name: f"{screen.paint(name.ljust(width), _COLORS[index % len(_COLORS)])} | ".encode()
            if len(servers) > 1
            else b""
            for index, name in enumerate(servers)
        }
        self._times = times
        self._filters = {name: TerminalFilter() for name in servers} if screen.terminal else {}
        self._open = ""  # the server whose line has not ended

    def line(self, server: str, time: int, text: bytes, ends: bool) -> bytes:
        """The output for a line, or a part of one."""
        begin = b""
        if server != self._open:
            shown = (rfc3339(time) if time else "-").ljust(_TIME).encode() + b" " if self._times else b""
            begin = (b"\n" if self._open else b"") + self._names[server] + shown
        self._open = "" if ends else server
        if self._filters:
            text = self._filters[server].feed(text)
        return begin + text

    def end(self) -> bytes:
        """The end of the output."""
        return b"".join(each.end() for each in self._filters.values())


class JsonPrinter:
    """Makes one JSON object of each line; `partial` is true for a part of a line that has not ended."""

    def line(self, server: str, time: int, text: bytes, ends: bool) -> bytes:
        """The output for a line, or a part of one."""
        import json

        shown = text.removesuffix(b"\n").removesuffix(b"\r").decode(errors="backslashreplace")
        about = {"server": server, "time": rfc3339(time) if time else None, "text": shown}
        return json.dumps(about if ends else about | {"partial": True}).encode() + b"\n"

    def end(self) -> bytes:
        """The end of the output."""
        return b""
