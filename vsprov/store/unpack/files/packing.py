"""Packing a file or a directory tree as a tar archive, pax(1), while others may be changing it.

Each step goes by a descriptor of the directory, and below the top no symbolic link is followed.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator

from vsprov.store.trees import acl

from ..headers import BLOCK, NAMES, attribute_key
from ..holes import stored
from ..refused import Refused
from ..stream import PIECE
from ..writing import CAPABILITY

DEPTH = 256  # of nested directories
MOST_STORED = 8 << 30  # bytes of a sparse file; tarfile does not find what comes after more
MOST_NAMED = 5  # files that were left out or changed, in a message
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
}
LEFT_OUT = {
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


class Unwritable(Exception):
    """The archive cannot be written; that is no error of what is packed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class Packing:
    """An archive that is written to the descriptor `out`; `report` is called with the bytes of files so far.

    `holes`: those of sparse files are left out, as by GNU tar (version 1.0 of its format for them); without,
    any program can read the archive. `left_out` are devices, FIFOs and sockets, {path in the archive: what it
    is}.
    """

    depth = DEPTH

    def __init__(self, out: int, report: Callable[[int], None], *, holes: bool) -> None:
        self.out = out
        self.report = report
        self.holes = holes
        self.bytes = self.files = 0
        self.left_out: dict[str, str] = {}
        self.linked: dict[tuple[int, int], str] = {}  # files with several names: the first one

    def add(self, folder: int, name: str, path: str) -> None:
        """Add what has this name in the directory open as `folder`, with everything in it, as `path`.

        Refused if it is itself a special file.
        """
        self._add(folder, name, path)
        if path in self.left_out:
            raise Refused(f"{path!r}: is {self.left_out[path]}")
        self.write(bytes(2 * BLOCK))

    def _add(self, folder: int, name: str, path: str) -> None:
        if path.count("/") >= self.depth:
            raise Refused(f"{path[:60]!r}…: lies too deep: at most {self.depth} levels are allowed")
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            kind = stat.S_IFMT(status.st_mode)
            first = self.linked.get((status.st_dev, status.st_ino))
            if first is not None:
                self.add_header(path, status, tarfile.LNKTYPE, first)
                return
            if kind not in KINDS:
                self.add_special(path, status)
                return
            if kind == stat.S_IFLNK:
                self.add_header(path, status, tarfile.SYMTYPE, os.readlink(name, dir_fd=folder))
                self.note_linked(path, status)
                return
            fd = os.open(name, OPEN, dir_fd=folder)
        except FileNotFoundError:
            self.note_removed(path)
            return
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        try:
            self._add_open(fd, path, kind)
        except FileNotFoundError:
            raise
        except OSError as error:
            where = error.filename if isinstance(error.filename, str) else path  # it may be a descriptor
            raise OSError(error.errno, error.strerror, where) from error
        finally:
            os.close(fd)

    def add_special(self, path: str, status: os.stat_result) -> None:
        """Add a device, FIFO or socket, or leave it out."""
        self.left_out[path] = LEFT_OUT.get(stat.S_IFMT(status.st_mode), "a special file")

    def note_linked(self, path: str, status: os.stat_result) -> None:
        """Make further names of the file, if it has any, hard links to this one."""
        if status.st_nlink > 1:
            self.linked[status.st_dev, status.st_ino] = path

    def note_removed(self, path: str) -> None:
        """Something was removed since its directory was read."""

    def owner(self, status: os.stat_result, path: str) -> tuple[int, int]:
        """The ids of its user and group in the archive."""
        return status.st_uid, status.st_gid

    def attributes(self, fd: int, path: str) -> dict[str, str]:
        """The extended attributes to copy, as pax records: capabilities, access control lists, user.*."""
        return {
            attribute_key(name): value.decode(*NAMES)
            for name, value in read_attributes(fd)
            if name == CAPABILITY or name in acl.ATTRIBUTES or name.startswith("user.")
        }

    def _add_open(self, fd: int, path: str, kind: int) -> None:
        status = os.fstat(fd)
        if stat.S_IFMT(status.st_mode) != kind:
            raise Refused(f"{path!r}: changed while it was being read", "try again when nothing writes to it")
        if kind == stat.S_IFREG:
            self.note_linked(path, status)
            self._file(fd, path, status)
            return
        self.add_header(path, status, tarfile.DIRTYPE, attributes=self.attributes(fd, path))
        for name in sorted(os.listdir(fd)):
            self._add(fd, name, f"{path}/{name}")

    def _file(self, fd: int, path: str, status: os.stat_result) -> None:
        attributes, size = self.attributes(fd, path), status.st_size
        parts = stored(fd, size) if self.holes else [(0, size)]
        stored_size = sum(part for _, part in parts)
        if size - stored_size < PIECE or stored_size >= MOST_STORED:
            self.add_header(path, status, tarfile.REGTYPE, attributes=attributes, size=size)
            self._content(fd, [(0, size)])
            return
        if not parts or sum(parts[-1]) < size:
            parts.append((size, 0))  # tar(1) ends the file where its last part ends
        numbers = [len(parts), *(number for part in parts for number in part)]
        text = "".join(f"{number}\n" for number in numbers).encode()
        text += bytes(-len(text) % BLOCK)
        attributes |= {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
        self.add_header(path, status, tarfile.REGTYPE, attributes=attributes, size=len(text) + stored_size)
        self.write(text)
        self._content(fd, parts)

    def add_header(
        self,
        path: str,
        status: os.stat_result,
        kind: bytes,
        target: str = "",
        attributes: dict[str, str] | None = None,
        size: int = 0,
    ) -> None:
        info = tarfile.TarInfo(path)
        info.type, info.linkname = kind, target
        info.mode, (info.uid, info.gid) = stat.S_IMODE(status.st_mode), self.owner(status, path)
        info.size = size
        seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
        info.mtime = seconds
        info.pax_headers = dict(attributes or {})
        if nanoseconds:
            whole, part = divmod(abs(status.st_mtime_ns), 10**9)
            info.pax_headers["mtime"] = f"{'-' if seconds < 0 else ''}{whole}.{part:09}"
        self.files += kind != tarfile.DIRTYPE
        self.write(info.tobuf(tarfile.PAX_FORMAT, *NAMES))

    def _content(self, fd: int, parts: list[tuple[int, int]]) -> None:
        """Exactly as many bytes as the header has announced, with zeros for what was cut off meanwhile."""
        for at, left in parts:
            while left:
                data = os.pread(fd, min(PIECE, left), at) or bytes(min(PIECE, left))
                self.write(data)
                at, left = at + len(data), left - len(data)
                self.bytes += len(data)
                self.report(self.bytes)
        self.write(bytes(-sum(size for _, size in parts) % BLOCK))

    def write(self, data: bytes) -> None:
        write_all(self.out, data)


def write_all(out: int, data: bytes) -> None:
    """Write data of an archive to a descriptor; raises Unwritable."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(out, rest) :]
    except OSError as error:
        raise Unwritable(error) from error


def read_attributes(fd: int) -> Iterator[tuple[str, bytes]]:
    """The extended attributes of an open file."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # the file system has none
            return
        raise
    for name in names:
        try:
            value = os.getxattr(fd, name)
        except OSError as error:
            if error.errno != errno.ENODATA:  # it was removed meanwhile
                raise
        else:
            yield name, value
