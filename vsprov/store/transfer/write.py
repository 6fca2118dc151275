"""Writing an exported server: `vsprov.store.unpack.exported.layout`."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Callable
from typing import IO, Any, cast

from msgspec import Struct

from vsprov.errors import FailedError, reason
from vsprov.kernel.paths import FOLDER
from vsprov.plan.ranges import RANGE
from vsprov.store.disk.durable import hint_for
from vsprov.store.disk.progress import Meter, Progress
from vsprov.store.layers.shift import of_any_namespace
from vsprov.store.transfer import header as headers
from vsprov.store.transfer.header import Header, Part
from vsprov.store.trees import acl, tree
from vsprov.store.trees.tree import CAPABILITY, OPAQUE, WITHOUT_LIMIT
from vsprov.store.unpack.exported.layout import DEPTH, HEADER, MANIFEST, SUMS, sums_text
from vsprov.store.unpack.files.packing import Packing, Unwritable, read_attributes, write_all
from vsprov.store.unpack.headers import BLOCK, NAMES, attribute_key
from vsprov.store.unpack.refused import Refused

LEVEL = 3  # of zstd(1), its default
PIECE = 1 << 20  # bytes passed on at a time


class Tree(Struct, frozen=True):
    """A directory tree on this host that becomes the part `path`. Its ids begin at `base`."""

    path: str
    place: str
    base: int


class Written(Struct, frozen=True):
    """The size and the SHA-256 of a compressed archive, and the devices that were left out."""

    bytes: int
    sha256: str
    left_out: dict[str, str]


def measure(one: Tree, label: str) -> Part:
    """The part that a tree becomes."""
    files = size = on_disk = 0
    seen = set()
    with tree.opened(one.place) as top:
        for entry in tree.walk(top, label, lambda *where: tree.over_limit(WITHOUT_LIMIT, *where)):
            files += 1
            if entry.status.st_nlink > 1 and entry.kind != stat.S_IFDIR:
                inode = (entry.status.st_dev, entry.status.st_ino)
                if inode in seen:
                    continue
                seen.add(inode)
            size += entry.status.st_size if entry.kind == stat.S_IFREG else 0
            on_disk += entry.status.st_blocks * 512
    return Part(one.path, files, size, on_disk)


def write(
    out: int, header: Header, manifest: bytes, trees: list[Tree], label: str, progress: Progress
) -> Written:
    """Write the archive of these trees, which nothing changes meanwhile, to the descriptor `out`.

    FailedError if a tree changes or cannot be read. OSError if `out` cannot be written.
    """
    import zstandard

    meter = Meter(progress, "packed", min(header.bytes, header.disk_bytes))  # holes are not packed
    sink = _Sink(out)
    compressor = zstandard.ZstdCompressor(LEVEL, write_checksum=True, threads=os.cpu_count() or 1)
    left_out: dict[str, str] = {}
    try:
        with compressor.stream_writer(cast(IO[bytes], sink), closefd=False) as compressed:
            sums = _Sums(compressed.write)
            for name, text in ((HEADER, headers.to_text(header)), (MANIFEST, manifest)):
                sums.begin(name)
                _add_text(sums, name, text, header.created)
            for one in trees:
                sums.begin(one.path)
                left_out |= _add_tree(sums, one, label, meter)
            _add_text(sums, SUMS, sums_text(sums.finish()), header.created)
            sums.write(bytes(2 * BLOCK))
            sums.flush()
    except Unwritable as error:
        raise error.error from error
    return Written(sink.bytes, sink.sha256.hexdigest(), left_out)


def _add_tree(sums: _Sums, one: Tree, label: str, meter: Meter) -> dict[str, str]:
    packing = _Exporting(sums, one.base, meter)
    above, name = os.path.split(one.place)
    try:
        folder = os.open(above, FOLDER & ~os.O_NOFOLLOW)
        try:
            packing.add_part(folder, name, one.path)
        finally:
            os.close(folder)
    except Refused as error:
        raise FailedError(f"{label}: {error}", hint=error.hint) from error
    except OSError as error:
        where = error.filename or one.path
        raise FailedError(f"{label}: read {where}: {reason(error)}", hint=hint_for(error, where)) from error
    return packing.left_out


class _Sink:
    """What takes the compressed data, and counts them."""

    def __init__(self, out: int) -> None:
        self.out = out
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        write_all(self.out, data)
        return len(data)


class _Sums:
    """The tar, in large pieces, with the SHA-256 of each part."""

    def __init__(self, pass_on: Callable[[bytes | bytearray], Any]) -> None:
        self.pass_on = pass_on
        self.held = bytearray()
        self.part = ""
        self.sum = hashlib.sha256()
        self.sums: list[tuple[str, str]] = []

    def write(self, data: bytes) -> None:
        if len(data) >= PIECE // 2:
            self.flush()
            self._pass(data)
            return
        self.held += data
        if len(self.held) >= PIECE:
            self.flush()

    def flush(self) -> None:
        held, self.held = self.held, bytearray()
        self._pass(held)

    def _pass(self, data: bytes | bytearray) -> None:
        if data:
            self.sum.update(data)
            self.pass_on(data)

    def begin(self, part: str) -> None:
        self.finish()
        self.part = part

    def finish(self) -> list[tuple[str, str]]:
        """End a part; the sums of all."""
        self.flush()
        if self.part:
            self.sums.append((self.part, self.sum.hexdigest()))
        self.sum, self.part = hashlib.sha256(), ""
        return self.sums


def _add_text(sums: _Sums, name: str, text: bytes, when: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(text), when, 0o600
    sums.write(info.tobuf(tarfile.PAX_FORMAT, *NAMES) + text + bytes(-len(text) % BLOCK))


class _Exporting(Packing):
    """The packing of one tree, exactly as it is, with the ids inside the server."""

    depth = DEPTH

    def __init__(self, sums: _Sums, base: int, meter: Meter) -> None:
        super().__init__(-1, lambda done: None, holes=True)
        self.sums, self.base, self.meter = sums, base, meter

    def add_part(self, folder: int, name: str, path: str) -> None:
        self._add(folder, name, path)

    def write(self, data: bytes) -> None:
        self.sums.write(data)
        self.meter.add(len(data))

    def note_removed(self, path: str) -> None:
        raise Refused(f"{path!r}: was removed while it was being read")

    def add_special(self, path: str, status: os.stat_result) -> None:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFIFO:
            self.add_header(path, status, tarfile.FIFOTYPE)
            self.note_linked(path, status)
        elif kind == stat.S_IFCHR and status.st_rdev == 0:
            self.add_header(path, status, tarfile.CHRTYPE)
        elif kind != stat.S_IFSOCK:  # programs make new sockets when they start
            super().add_special(path, status)

    def owner(self, status: os.stat_result, path: str) -> tuple[int, int]:
        try:
            return tree.ids_inside(status, self.base)
        except FailedError as error:
            if stat.S_ISCHR(status.st_mode):  # a whiteout, which belongs to whoever mounted the overlay
                return 0, 0
            raise Refused(f"{path!r}: {error}", error.hint) from None

    def attributes(self, fd: int, path: str) -> dict[str, str]:
        found = {}
        for name, value in read_attributes(fd):
            if name == CAPABILITY:
                value = of_any_namespace(value)
            elif name in acl.ATTRIBUTES:
                try:
                    value = acl.shift(value, self.base, RANGE)
                except ValueError as error:
                    raise Refused(f"{path!r}: {name}: {error}") from error
            elif not name.startswith("user.") and (name, value) != (OPAQUE, b"y"):
                continue
            found[attribute_key(name)] = value.decode(*NAMES)
        return found
