"""Images of the size of Debian in a registry: one with a single layer, one with several and whiteouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import call
from tests.registry import Registry, blob, document, named
from vsprov.store.registry import oci_documents

SUITE = "bookworm"
SIZE = 170_000_000  # bytes to take from /usr if mmdebstrap fails
LEVEL = 6  # of gzip, as docker and buildah use it
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
PARTS = ("./usr/share/", "./usr/lib/")  # a layer for each, above one with all the rest


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image in the registry: its size in bytes, unpacked and compressed; the URLs of its layers, lowest
    first.
    """

    name: str
    reference: str
    unpacked: int
    compressed: int
    blobs: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.name}: {self.unpacked / 1e6:.0f} MB, {self.compressed / 1e6:.0f} MB compressed"


def make_root(folder: Path) -> Path:
    """Create a tar archive of a minimal Debian or, if mmdebstrap fails, of a part of /usr of that size."""
    archive = folder / "root.tar"
    try:
        call("env", f"TMPDIR={folder}", "mmdebstrap", "--variant=minbase", SUITE, archive)
    except (RuntimeError, OSError) as error:
        print(f"mmdebstrap failed, using a part of /usr instead: {error}", file=sys.stderr)
        _pack_usr(archive)
    return archive


def _pack_usr(archive: Path) -> None:
    left = SIZE
    busybox = shutil.which("busybox")
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT, dereference=True) as tar:
        tar.add(busybox or "/bin/sleep", "./usr/bin/sleep")
    with tarfile.open(archive, "a", format=tarfile.PAX_FORMAT) as tar:
        for folder, names, files in os.walk("/usr"):
            names.sort()
            tar.add(folder, f".{folder}", recursive=False)
            for file in sorted(files):
                if left > 0 and f"{folder}/{file}" != "/usr/bin/sleep":
                    tar.add(f"{folder}/{file}", f".{folder}/{file}", recursive=False)
                    left -= os.lstat(f"{folder}/{file}").st_size


class _Layer:
    """A layer that is being packed, including the parent directories of its entries."""

    def __init__(self, folders: dict[str, tarfile.TarInfo]) -> None:
        self._folders = folders
        self._bytes = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._bytes, mode="w", format=tarfile.PAX_FORMAT)
        self._there: set[str] = set()

    def add(self, member: tarfile.TarInfo, data: io.BufferedIOBase | None = None) -> None:
        above = os.path.dirname(member.name)
        if above in self._folders and above not in self._there:
            self.add(self._folders[above])
        if member.name not in self._there:
            self._there.add(member.name)
            self._tar.addfile(member, data)

    def packed(self) -> bytes:
        self._tar.close()
        return self._bytes.getvalue()


def split(archive: Path) -> list[bytes]:
    """Split the root into a layer with the rest, a layer for each of PARTS on top, and one like that of an
    upgrade and a cleanup: all programs again, and whiteouts for all documentation.
    """
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        folders = {each.name: each for each in members if each.isdir()}
        layers = [_Layer(folders) for _ in PARTS]
        rest, top = _Layer(folders), _Layer(folders)
        for member in members:
            path = f"{member.name}/"
            into = next((layers[at] for at, part in enumerate(PARTS) if path.startswith(part)), rest)
            into.add(member, _content(tar, member))
            if path.startswith("./usr/bin/"):
                top.add(member, _content(tar, member))
            if os.path.dirname(member.name) == "./usr/share/doc":
                top.add(tarfile.TarInfo(f"./usr/share/doc/.wh.{os.path.basename(member.name)}"))
        return [layer.packed() for layer in (rest, *layers, top)]


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> io.BufferedIOBase | None:
    return tar.extractfile(member) if member.isreg() else None  # type: ignore[return-value]


def push(registry: Registry, folder: Path, name: str, tag: str, layers: Sequence[bytes]) -> Pushed:
    """Push an image with these layers to the registry as `bench:TAG`."""
    layout = folder / f"layout-{tag}"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compressed = list(pool.map(lambda layer: gzip.compress(layer, LEVEL, mtime=0), layers))
    parts = [blob(layout, layer, GZIP) for layer in compressed]
    about = {
        "os": "linux",
        "architecture": oci_documents.platforms()[0][0],
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci_documents.MANIFESTS[0],
        "config": document(layout, about, oci_documents.CONFIGS[0]),
        "layers": parts,
    }
    named(layout, **{tag: document(layout, manifest, oci_documents.MANIFESTS[0])})
    registry.push(layout, f"bench:{tag}", tag)
    shutil.rmtree(layout)
    urls = tuple(f"http://{registry.host}/v2/bench/blobs/{part['digest']}" for part in parts)
    sizes = sum(map(len, layers)), sum(map(len, compressed))
    return Pushed(name, f"{registry.host}/bench:{tag}", *sizes, urls)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
