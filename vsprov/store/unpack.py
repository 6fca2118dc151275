"""Unpacks a tar archive in a process of its own, shut into the directory that it fills.

Stand-alone: run by path, imports nothing of vsprov. Descriptor 0 is the archive, argv[1] the job (`Job` as
JSON); lines of JSON come out: {"entries", "bytes"} while it works, then {"sha256"} of the archive as read, or
{"error", "hint"}.

Python's tarfile reads the headers, since it knows every dialect and hands over names, times and extended
attributes as they are; but only this file makes anything on disk. tar(1) would follow what it has unpacked,
make devices, and knows no limits. By the time the first byte is parsed, the process is in a chroot without
the right to leave it, holds no descriptor from outside but the archive and the pipe, and has only the
capabilities to give files their owners, modes and attributes: whatever an archive says, it says it about the
inside.
"""

from __future__ import annotations

import bz2
import ctypes
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import resource
import signal
import stat
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

MAX_ID = 65535
MAX_HEADER = 1 << 20  # bytes of a long name or of a member's extended header
MEMORY = 1 << 30  # address space; decompressors obey the archive in how much they want
ZSTD_WINDOW = 1 << 27  # what zstd(1) decompresses without --long
PIECE = 1 << 20
BLOCK = 512
CAPABILITY = "security.capability"
ATTRIBUTE = "SCHILY.xattr."
WHITEOUT = ".wh."

# capabilities(7) and their numbers; without FSETID chmod(2) would drop setgid.
CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP = 0, 1, 3, 4, 31
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION = 0x20080522


class Refused(Exception):
    """The archive is one that no image may come from."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Job:
    target: str
    parent: int
    entries: int
    bytes: int
    depth: int
    path: int
    pace: float  # seconds between two words of how far it is


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Archive:
    """The file as it is, hashed as it goes by."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = os.read(self.fd, PIECE if size < 0 else size)
        self.sha256.update(data)
        return data


class Content:
    """The archive decompressed, forward only, at most `limit` bytes: the file that tarfile reads from."""

    def __init__(self, source: Readable, limit: int) -> None:
        self.source = source
        self.limit = limit
        self.position = 0
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        parts = []
        left = size if size >= 0 else PIECE
        while left:
            part = self.source.read(min(left, PIECE))
            if not part:
                break
            parts.append(part)
            left -= len(part)
            self.position += len(part)
            if self.position > self.limit:
                raise Refused(
                    f"it unpacks to more than {self.limit} bytes",
                    "a small archive that grows without end is an attack",
                )
        self.last = b"".join(parts)
        return self.last

    def tell(self) -> int:
        return self.position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0 or position < self.position:
            raise Refused("its headers point backwards")
        while self.position < position and self.read(min(position - self.position, PIECE)):
            pass
        return self.position


class Member(tarfile.TarInfo):
    """A header that refuses what would make tarfile read itself full.

    tarfile calls `_proc_member` for each header it has read.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type not in (
            *tarfile.SUPPORTED_TYPES,
            tarfile.XGLTYPE,
            tarfile.XHDTYPE,
            tarfile.SOLARIS_XHDTYPE,
        ):
            raise Refused(f"{self.name!r}: is of the unknown kind {self.type!r}")
        named = self.type in tarfile.REGULAR_TYPES or self.type in (
            tarfile.LNKTYPE,
            tarfile.SYMTYPE,
            tarfile.DIRTYPE,
        )
        if not named and self.size > MAX_HEADER:
            raise Refused(f"{self.name!r}: has a header of {self.size} bytes; {MAX_HEADER} are the most")
        return super()._proc_member(tar)  # type: ignore[misc]


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    archive = Archive(0)
    try:
        opened = decompressor(os.pread(0, 16, 0))
        confine(job)
        os.lseek(0, 0, os.SEEK_SET)
        content = Content(opened(archive), job.bytes)
        Unpacking(job, content).run()
        while archive.read():
            pass
        tell({"sha256": archive.sha256.hexdigest()})
    except Refused as error:
        tell({"error": str(error), "hint": error.hint})
    except MemoryError:
        tell({"error": f"it wants more than {MEMORY >> 20} MiB of memory to unpack"})
    except OSError as error:
        tell(
            {
                "error": f"unpack: {error.filename or ''}: {error.strerror}"
                if error.errno
                else f"it is damaged: {error}"
            }
        )
    except Exception as error:
        # The archive is hostile input to the parsers of four formats, which raise whatever they meet.
        tell({"error": f"it is damaged, or no tar archive: {error}"})


def tell(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def decompressor(magic: bytes) -> Callable[[Archive], Readable]:
    """How to read an archive that starts with `magic`. Names play no part: they are anyone's to choose."""
    if magic.startswith(b"\x1f\x8b"):
        return lambda archive: gzip.GzipFile(fileobj=file_object(archive))
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lambda archive: lzma.LZMAFile(file_object(archive))
    if magic.startswith(b"BZh"):
        return lambda archive: bz2.BZ2File(file_object(archive))
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        reader = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        return lambda archive: reader.stream_reader(
            file_object(archive), read_size=PIECE, read_across_frames=True
        )
    return file_object


def file_object(archive: Archive) -> BinaryIO:
    """The archive as the decompressors like it: buffered."""

    class Raw(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            data = archive.read(len(buffer))
            buffer[: len(data)] = data
            return len(data)

    return io.BufferedReader(Raw(), PIECE)


def confine(job: Job) -> None:
    """Leave this process nothing but the target directory, the archive and the pipe."""
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it as well, and ends this process
    os.umask(0)
    for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY)):
        resource.setrlimit(what, (most, most))
    os.chroot(job.target)
    os.chdir("/")
    kept = sum(1 << number for number in (CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP))
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    # Effective, permitted, inheritable; low and high words.
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.capset(ctypes.byref(header), ctypes.byref(sets)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "capset")
    # After capset, which clears it; the check covers a parent that died before.
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or os.getppid() != job.parent:
        raise OSError(errno.ESRCH, "the process that asked for it is gone", "prctl")


class Unpacking:
    """One archive on its way to disk."""

    def __init__(self, job: Job, content: Content) -> None:
        self.job = job
        self.content = content
        self.entries = 0
        self.bytes = 0
        self.folders: dict[str, int] = {}  # directories and the times they get once they are full
        self.told = time.monotonic()

    def run(self) -> None:
        tar = tarfile.TarFile(
            fileobj=self.content, mode="r", tarinfo=Member, encoding="utf-8", errors="surrogateescape"  # type: ignore[arg-type]
        )  # fmt: skip
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]
            try:
                self.put(tar, member)
            except OSError as error:
                raise OSError(error.errno, error.strerror, repr(member.name)) from error
        # tarfile takes a damaged header for the end; the end is a block of zeros.
        if len(self.content.last) < BLOCK or any(self.content.last):
            raise Refused("it is cut short or damaged: the end of the archive is missing")
        for path, when in reversed(self.folders.items()):
            os.utime(path, ns=(when, when), follow_symlinks=False)
        while self.content.read():
            pass

    def put(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Make one member of the archive."""
        self.count(member)
        path = self.checked(member.name, member.name)
        if not (0 <= member.uid <= MAX_ID and 0 <= member.gid <= MAX_ID):
            raise Refused(
                f"{member.name!r}: belongs to {member.uid}:{member.gid}; a server's ids end at {MAX_ID}"
            )
        if member.isdir():
            self.make_folder(path)
            self.folders[path] = modified(member)
        elif path == ".":
            raise Refused(f"{member.name!r}: the top of the archive is no directory")
        elif member.islnk():
            target = self.checked(member.linkname, member.name)
            if target != path:  # tar(1) given a file twice writes a link to itself
                self.make_way(path)
                os.link(target, path, follow_symlinks=False)
            return  # the file it is a name of has its owner and mode already
        elif member.issym():
            self.make_way(path)
            os.symlink(member.linkname, path)
        elif member.isreg():
            self.make_way(path)
            self.write(tar, member, path)
        else:
            kinds = {
                tarfile.CHRTYPE: "a character device",
                tarfile.BLKTYPE: "a block device",
                tarfile.FIFOTYPE: "a FIFO",
            }
            raise Refused(
                f"{member.name!r}: is {kinds[member.type]}, which no image may hold",
                "a server gets a /dev of its own: make the archive without, as with tar --exclude=./dev/*",
            )
        self.dress(member, path)

    def count(self, member: tarfile.TarInfo) -> None:
        self.entries += 1
        if member.size < 0:
            raise Refused(f"{member.name!r}: has a negative size")
        self.bytes += member.size if member.isreg() else 0
        if self.entries > self.job.entries:
            raise Refused(f"it holds more than {self.job.entries} files")
        if self.bytes > self.job.bytes:
            raise Refused(f"{member.name!r}: makes the image larger than {self.job.bytes} bytes")
        if time.monotonic() - self.told >= self.job.pace:
            self.told = time.monotonic()
            tell({"entries": self.entries, "bytes": self.bytes})

    def checked(self, name: str, member: str) -> str:
        """A name as a path below the root. The chroot would hold any; these are no slips but attacks."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if (name.startswith("/") and parts) or ".." in parts or "\0" in name:
            raise Refused(f"{member!r}: {name!r} leads out of the archive")
        if any(part.startswith(WHITEOUT) for part in parts):
            raise Refused(f"{member!r}: is a whiteout, which only a layer over another may hold")
        path = "/".join(parts) or "."
        if len(parts) > self.job.depth or len(path.encode(errors="surrogateescape")) > self.job.path:
            shown = f"{member[:60]!r}…"
            raise Refused(
                f"{shown}: lies too deep: {self.job.depth} levels and {self.job.path} bytes are the most"
            )
        return path

    def make_folder(self, path: str) -> None:
        """A directory at `path`, in place of anything else there."""
        try:
            os.mkdir(path, 0o755)
        except FileNotFoundError:
            self.make_way(path)
            os.mkdir(path, 0o755)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
                os.mkdir(path, 0o755)

    def make_way(self, path: str) -> None:
        """The directories above `path`, and nothing at it: a later member replaces one of its name."""
        try:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.rmdir(path)
                self.folders.pop(path, None)
            else:
                os.unlink(path)
        except FileNotFoundError:
            parts = path.split("/")[:-1]
            for number in range(1, len(parts) + 1):
                try:
                    os.mkdir("/".join(parts[:number]), 0o755)
                except FileExistsError:
                    continue

    def write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        """A regular file with its content; holes of a sparse one stay holes."""
        sparse = member.issparse()
        source: Readable = self.content
        if sparse:
            source = tar.extractfile(member)  # type: ignore[assignment]
        else:
            self.content.seek(member.offset_data)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            left = member.size
            while left:
                data = source.read(min(left, PIECE))
                if not data:
                    raise Refused(f"{member.name!r}: it is cut short in the middle of this file")
                left -= len(data)
                if sparse and not data.strip(b"\0"):
                    os.lseek(fd, len(data), os.SEEK_CUR)
                    continue
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
            if sparse:
                os.ftruncate(fd, member.size)
        finally:
            os.close(fd)

    def dress(self, member: tarfile.TarInfo, path: str) -> None:
        """Owner, kept attributes, mode, time: in this order, as chown(2) clears capabilities and setuid."""
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        for key, value in member.pax_headers.items():
            name = key.removeprefix(ATTRIBUTE)
            if name == key:
                continue
            if name.startswith(("trusted.overlay.", "user.overlay.")):
                raise Refused(
                    f"{member.name!r}: {name}: it is the upper layer of an overlay",
                    "pack the merged directory",
                )
            # user.* is for files and directories alone, xattr(7).
            if not member.issym() and (name == CAPABILITY or name.startswith("user.")):
                os.setxattr(path, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
        if not member.issym():
            os.chmod(path, member.mode & 0o7777)
        if not member.isdir():
            when = modified(member)
            os.utime(path, ns=(when, when), follow_symlinks=False)


def modified(member: tarfile.TarInfo) -> int:
    """When a member was last changed, in ns; exactly as an extended header says: a float would round."""
    exact = re.fullmatch(r"(-?[0-9]{1,18})(?:\.([0-9]*))?", member.pax_headers.get("mtime", ""), re.ASCII)
    if exact:
        part = int(((exact[2] or "") + "000000000")[:9])
        seconds = int(exact[1])
        when = seconds * 10**9 + (-part if exact[1].startswith("-") else part)
    else:
        when = int(member.mtime) * 10**9
    return max(min(when, 2**62), -(2**62))


if __name__ == "__main__":
    main()
