"""Layers for tests of the image store, made by hand: a folder with a tree, and the listing of that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vsprov.store.disk import durable
from vsprov.store.layers import dedupe, listing
from vsprov.store.layers.dedupe import Done
from vsprov.store.layers.verify import verify

WHEN = 1_700_000_000_123_456_789


def quiet(*_: object) -> None:
    """Progress that nobody wants to see."""


def put(path: Path, content: bytes, *, mode: int = 0o644, owner: int = 0, mtime: int = WHEN) -> Path:
    """A file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.chown(path, owner, owner)
    path.chmod(mode)
    os.utime(path, ns=(mtime, mtime))
    return path


def seal(layer: Path) -> Path:
    """Write the listing of a layer whose tree is finished; every directory gets a time of its own."""
    for number, (folder, _, _) in enumerate(sorted(os.walk(layer / "tree"))):
        os.utime(folder, ns=(WHEN, WHEN + number))
    listing.write(f"{layer}/tree", f"{layer}/listing", quiet)
    return layer


def filled(layer: Path, files: dict[str, bytes]) -> Path:
    """A layer of these files."""
    for name, content in files.items():
        put(layer / "tree" / name, content)
    return seal(layer)


def differences(layer: Path) -> list[str]:
    return verify(str(layer), quiet)


def linked(*paths: Path) -> bool:
    """Whether all are one inode."""
    return len({path.stat().st_ino for path in paths}) == 1


@contextmanager
def mounted(kind: str, source: str | Path, point: Path, options: str = "rw") -> Iterator[Path]:
    """`source` mounted on `point`, which is made where it is missing."""
    point.mkdir(parents=True, exist_ok=True)
    words = ["--bind"] if kind == "bind" else ["-t", kind, "-o", options]
    subprocess.run(["mount", *words, source, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@contextmanager
def disk(kind: str, folder: Path, size: int, *flags: str) -> Iterator[Path]:
    """A new file system of this kind, of `size` bytes, in a file below `folder`; where it is mounted."""
    folder.mkdir(exist_ok=True)
    image = folder / f"{kind}.disk"
    with open(image, "wb") as file:
        file.truncate(size)
    try:
        subprocess.run([f"mkfs.{kind}", "-q", *flags, image], check=True)
        with mounted(kind, image, folder / kind, "loop") as point:
            yield point
        (folder / kind).rmdir()
    finally:
        image.unlink()


def clone(source: Path, target: Path) -> None:
    """A copy of a file as it is at one moment, even while a file system writes to it. It is a new file:
    mount(8) would use the loop device of the old one, if that is still there.
    """
    target.unlink(missing_ok=True)
    subprocess.run(["cp", "--reflink=always", source, target], check=True)


def by_key(*layers: Path) -> dict[str, str]:
    return {layer.name: str(layer) for layer in layers}


def united(*layers: Path) -> Done:
    """Dedupe these layers, which must leave each as it was and nothing beside it."""
    done = dedupe.apply(dedupe.find(by_key(*layers)), quiet, quiet)
    for layer in layers:
        settled(layer)
    return done


def settled(layer: Path) -> None:
    assert differences(layer) == []
    assert sorted(os.listdir(layer)) == ["listing", "tree"]
    assert not [name for name in os.listdir(layer.parent) if name.startswith(durable.LEFTOVERS)]


def pair(root: Path, files: dict[str, bytes]) -> tuple[Path, Path]:
    """Two layers of the same files."""
    return filled(root / "one", files), filled(root / "two", files)


def first_block(path: Path) -> str:
    subprocess.run(["sync", "-f", path], check=True)
    said = subprocess.run(["filefrag", "-v", path], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[3].split()[3]


def forget(path: Path) -> None:
    """Have the kernel drop a file's pages, posix_fadvise(2)."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
