"""A server's console: the FIFO that it writes to, and the log that the keeper copies it into."""

from __future__ import annotations

import os
from errno import EINVAL, ENOSPC
from stat import S_ISFIFO, S_ISREG

FIFO, LOG = "console", "console.log"  # in the server's directory
PART = 1 << 18  # bytes copied in one turn
PARTS_LEFT = 5  # a pipe holds at most this many parts: fs.pipe-max-size, 1 MiB
ROOM = 1 << 20  # bytes that have to be free before an interrupted log is continued
_buffer = bytearray(PART)
_view = memoryview(_buffer)


class Console:
    """Copies what comes through the FIFO to the end of the log, and drops what the log cannot take."""

    __slots__ = ("dropped", "fifo", "folder", "log", "problem")

    def __init__(self, folder: int) -> None:
        """Open both in the directory `folder`; a log that does not exist is created for the first output.

        OSError without a FIFO; ENOENT for a server that has none.
        """
        self.folder = folder
        self.log = -1
        self.dropped = 0
        self.problem = ""
        # For writing too: there is always a writer then, so a server that closes its end makes no EPOLLHUP.
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fifo = os.open(FIFO, flags, dir_fd=folder)
        if not S_ISFIFO(os.fstat(self.fifo).st_mode):
            os.close(self.fifo)
            raise OSError(EINVAL, "not a FIFO", FIFO)
        try:
            self._open_log()
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problem = _reason(error)

    def _open_log(self, creation: int = 0) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(LOG, flags | creation, 0o600, dir_fd=self.folder)
        try:
            status = os.fstat(fd)
            if not S_ISREG(status.st_mode):
                raise OSError(EINVAL, "not a regular file", LOG)
            if status.st_uid or status.st_gid:  # of a version that let the server write to it
                os.fchown(fd, 0, 0)
        except OSError:
            os.close(fd)
            raise
        self.log = fd

    def copy(self) -> bool:
        """Copy one part; False if the FIFO is empty."""
        try:
            size = os.readv(self.fifo, [_buffer])
        except BlockingIOError:
            return False
        part = _view[:size]
        try:
            if self.log < 0:
                self._open_log(os.O_CREAT)
            if self.dropped:
                self._check_room()
                self._note_missing()
            while part:
                part = part[os.write(self.log, part) :]
            self.problem = ""
        except OSError as error:
            self.dropped += len(part)
            self.problem = _reason(error)
        return True

    def _check_room(self) -> None:
        """Raise ENOSPC until there is room for more than a few lines, each of which would get a note."""
        disk = os.fstatvfs(self.log)
        if disk.f_bavail * disk.f_frsize < ROOM:
            raise OSError(ENOSPC, os.strerror(ENOSPC))

    def _note_missing(self) -> None:
        """Write to the log how much is missing, or raise OSError and leave it as it was."""
        line = f"\n[vsprov: {self.dropped} bytes of output are missing here: {self.problem}]\n".encode()
        end = os.fstat(self.log).st_size
        if os.write(self.log, line) < len(line):
            os.truncate(self.log, end)
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
        if self.log >= 0:
            os.close(self.log)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
