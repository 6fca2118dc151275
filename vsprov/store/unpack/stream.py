"""The archive as a stream of bytes: hashed, decompressed and hashed again, by a thread that reads ahead.

zlib, hashlib and read(2) release the interpreter lock, so files are written meanwhile on another CPU.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from queue import Queue
from threading import Thread
from typing import Any, BinaryIO, Protocol

from .refused import Refused

PIECE = 1 << 20  # bytes passed on at a time
AHEAD = 16  # pieces decompressed in advance, at most
COMPRESSED = 1 << 17  # bytes; small, as the rest is copied at the end of each gzip member
ZSTD_WINDOW = 1 << 27  # the limit of zstd(1) without --long
GZIP = b"\x1f\x8b"
XZ = b"\xfd7zXZ\x00"


class Readable(Protocol):
    """`read` returns at most `size` bytes, and b"" at the end only."""

    def read(self, size: int = -1, /) -> bytes: ...


class Archive:
    """The file, hashed while it is read. It may be a pipe, so `head` is kept for the first read."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.sha256 = hashlib.sha256()
        self.position = 0
        self.head = b""
        while len(self.head) < 16 and (data := os.read(fd, 16 - len(self.head))):
            self.head += data
        self.kept = self.head

    def read(self, size: int = -1) -> bytes:
        if self.kept:
            data, self.kept = self.kept, b""
        else:
            data = os.read(self.fd, PIECE if size < 0 else size)
        self.sha256.update(data)
        self.position += len(data)
        return data


def decompressor(magic: bytes) -> Callable[[Archive], Readable]:
    """How to read an archive that starts with `magic`. Its name is not used, since that is arbitrary."""
    if magic.startswith(GZIP):
        return Gzip
    if magic.startswith(XZ):
        return Xz
    if magic.startswith(b"BZh"):
        import bz2

        return lambda archive: bz2.BZ2File(file_object(archive))
    # The second is a skippable frame, RFC 8878 3.1.2, with which some programs start.
    if magic.startswith(b"\x28\xb5\x2f\xfd") or (magic[1:4] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5):
        import zstandard

        reader = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        return lambda archive: reader.stream_reader(
            file_object(archive), read_size=COMPRESSED, read_across_frames=True
        )
    return lambda archive: archive


def file_object(archive: Archive) -> BinaryIO:
    """The archive as a buffered file for the decompressors of libraries."""

    class Raw(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            data = archive.read(len(buffer))
            buffer[: len(data)] = data
            return len(data)

    return io.BufferedReader(Raw(), COMPRESSED)


class Gzip:
    """The members of a gzip file, RFC 1952, concatenated. Trailing data are ignored."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.member = zlib.decompressobj(31)
        self.rest = b""  # read, but not yet decompressed
        self.pending = False  # zlib may have more output without further input

    def read(self, size: int = PIECE) -> bytes:
        data = b""
        while not data:
            if self.member.eof and not self._next_member():
                break
            if not self.rest and not self.pending:
                self.rest = self.archive.read(COMPRESSED)
                if not self.rest:
                    raise Refused("it is truncated: the compressed data have no end")
            data = self.member.decompress(self.rest, size)
            self.rest = self.member.unused_data if self.member.eof else self.member.unconsumed_tail
            self.pending = len(data) == size
        return data

    def _next_member(self) -> bool:
        """Go to the next member, skipping zero padding. False if there is none."""
        self.rest = self.rest.lstrip(b"\0")
        while len(self.rest) < len(GZIP) and (more := self.archive.read(COMPRESSED)):
            self.rest = (self.rest + more).lstrip(b"\0")
        if self.rest.startswith(GZIP):
            self.member = zlib.decompressobj(31)
            return True
        self.rest = b""
        return False


class Xz:
    """The streams of an xz file, concatenated; lzma.LZMAFile fails at the padding that may follow them."""

    def __init__(self, archive: Archive) -> None:
        import lzma

        self.archive = archive
        self.new = lzma.LZMADecompressor
        self.stream = self.new()

    def read(self, size: int = PIECE) -> bytes:
        data = b""
        while not data:
            if self.stream.eof:
                rest = self.stream.unused_data.lstrip(b"\0")
                while len(rest) < len(XZ) and (more := self.archive.read(COMPRESSED)):
                    rest = (rest + more).lstrip(b"\0")
                if not rest.startswith(XZ):
                    break
                self.stream = self.new()
            elif self.stream.needs_input:
                rest = self.archive.read(COMPRESSED)
                if not rest:
                    raise Refused("it is truncated: the compressed data have no end")
            else:
                rest = b""
            data = self.stream.decompress(rest, size)
        return data


class Stream:
    """The decompressed archive, forward only, at most `limit` bytes.

    `report` is called with the bytes of the archive read so far, after each piece. `read`, `seek`,
    `seekable` and `tell` are the file interface for tarfile.
    """

    def __init__(self, archive: Archive, source: Readable, limit: int, report: Callable[[int], None]) -> None:
        self.archive = archive
        self.source = source
        self.sha256 = archive.sha256 if source is archive else hashlib.sha256()
        self.limit = limit
        self.report = report
        self.piece = b""
        self.at = 0  # in the piece
        self.before = 0  # bytes of earlier pieces
        self.ended = False
        self.queue: Queue[bytes | Exception] = Queue(AHEAD)
        Thread(target=self._read_ahead, daemon=True).start()

    def _read_ahead(self) -> None:
        try:
            while data := self.source.read(PIECE):
                self.queue.put(data)
            while self.archive.read():
                pass
            self.queue.put(b"")
        except Exception as error:
            self.queue.put(error)  # `_fetch` raises it

    def _fetch(self) -> bool:
        """Go to the next piece; False at the end."""
        if self.ended:
            return False
        got = self.queue.get()
        if isinstance(got, Exception):
            raise got
        self._sum(got)
        self.before += len(self.piece)
        self.piece, self.at, self.ended = got, 0, not got
        if self.before + len(got) > self.limit:
            raise Refused(
                f"it decompresses to more than {self.limit} bytes",
                "this may be a decompression bomb",
            )
        self.report(self.archive.position)
        return not self.ended

    def _sum(self, data: bytes) -> None:
        if self.source is not self.archive:
            self.sha256.update(data)  # not in the thread, which has more to do

    def views(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes without copying, in one or more pieces; fewer at the end."""
        while size:
            if self.at == len(self.piece) and not self._fetch():
                return
            view = memoryview(self.piece)[self.at : self.at + size]
            self.at += len(view)
            size -= len(view)
            yield view

    def read(self, size: int) -> bytes:
        end = self.at + size
        if end <= len(self.piece):
            data = self.piece[self.at : end]
            self.at = end
            return data
        return b"".join(self.views(size))

    def give_back(self, data: bytes) -> None:
        """Return `data`, read last, to the stream."""
        self.before = self.tell() - len(data)
        self.piece = data + self.piece[self.at :]
        self.at = 0

    def tell(self) -> int:
        return self.before + self.at

    def seekable(self) -> bool:
        return True  # forward

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0 or position < self.tell():
            raise Refused("its headers point backwards")
        self.skip(position - self.tell())
        return self.tell()

    def skip(self, size: int) -> None:
        if self.at + size <= len(self.piece):
            self.at += size
        else:
            for _ in self.views(size):
                pass

    def diff_id(self) -> str:
        """The SHA-256 of all decompressed data; reads the rest."""
        while self._fetch():
            pass
        return self.sha256.hexdigest()
