"""A server's console: the FIFO that it writes to, copied to its log."""

from __future__ import annotations

import os
from errno import EINVAL, ENOSPC
from stat import S_ISFIFO

from ..kept import Kept
from ..protocol import FIFO
from .log import NO_LIMIT, Log
from .subject import Subject

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..loop import Loop

PART = 1 << 18  # bytes copied in one turn
PARTS_LEFT = 5  # a pipe holds at most this many parts: fs.pipe-max-size, 1 MiB
ROOM = 1 << 20  # bytes that have to be free before an interrupted log is continued
_buffer = bytearray(PART)


class Console:
    """Copies what comes through the FIFO to the log, and drops what the log cannot take."""

    __slots__ = ("dropped", "fifo", "log", "problem")

    def __init__(self, folder: int, size: int, files: int) -> None:
        """Open both in the directory `folder`; see `Log` for `size` and `files`.

        OSError without a FIFO; ENOENT for a server that has none.
        """
        self.dropped = 0
        self.problem = ""
        # For writing too: there is always a writer then, so a server that closes its end makes no EPOLLHUP.
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fifo = os.open(FIFO, flags, dir_fd=folder)
        if not S_ISFIFO(os.fstat(self.fifo).st_mode):
            os.close(self.fifo)
            raise OSError(EINVAL, "not a FIFO", FIFO)
        self.log = Log(folder, size, files)
        try:
            self.log.open()
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problem = _reason(error)

    def copy(self) -> bool:
        """Copy one part; False if the FIFO is empty."""
        try:
            size = os.readv(self.fifo, [_buffer])
        except BlockingIOError:
            return False
        self.log.taken = 0
        try:
            if self.dropped:
                self._note_missing()
            self.log.append(_buffer, size)
            self.problem = ""
        except OSError as error:
            self.dropped += size - self.log.taken
            self.problem = _reason(error)
        return True

    def _note_missing(self) -> None:
        """Write to the log how much is missing, or raise OSError and leave it as it was.

        Waits for more room than a few lines need, each of which would get a note.
        """
        line = f"\n[vsprov: {self.dropped} bytes of output are missing here: {self.problem}]\n".encode()
        if self.log.free() < ROOM or not self.log.append_whole(line):
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        self.dropped = 0

    def copy_rest(self) -> None:
        """Copy what is in the FIFO now; a writer that never stops does not hold us up."""
        for _ in range(PARTS_LEFT):
            if not self.copy():
                return

    def close(self) -> None:
        """Close both; the caller closes the directory."""
        os.close(self.fifo)
        self.log.close()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


class Consoles(Subject):
    """The consoles of all servers; one that writes its log itself, of an earlier version, has none."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.consoles: dict[str, Console] = {}

    def kept(self, one: Kept) -> None:
        size, files = one.spec["console"]["maxSize"], one.spec["console"]["maxFiles"]
        size = NO_LIMIT if size == "max" else size
        if one.name in self.consoles:
            return self.consoles[one.name].log.limit(size, files)
        try:
            console = Console(one.folder, size, files)
        except FileNotFoundError:
            return
        except OSError as error:
            raise OSError(error.errno, f"open its console: {error.strerror}") from error
        console.log.begin(one.home, b"%d %d" % (one.pid, one.start))
        self.consoles[one.name] = console
        self.loop.watch(console.fifo, console.copy)

    def settle(self, one: Kept) -> None:
        if one.name in self.consoles:
            self.consoles[one.name].copy_rest()

    def released(self, one: Kept) -> None:
        console = self.consoles.pop(one.name, None)
        if console:
            self.loop.forget(console.fifo)
            console.close()

    def problems(self) -> Iterator[str]:
        for name, console in self.consoles.items():
            if console.problem:
                yield f"Server/{name}: write its console log: {console.problem}"
