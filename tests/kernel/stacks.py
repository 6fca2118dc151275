"""Archives and stacks of them: unpacked by ours, mounted to look at, unpacked by umoci to compare."""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.archives import archive
from tests.trees import Found, listing
from vsprov.errors import ImageError
from vsprov.store.limits import LIMITS, Limits
from vsprov.store.unpacking import NeedsBelow, Unpacked, unpack

MIB = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Box:
    """A folder for archives and the trees made of them, with the few calls the tests make."""

    folder: Path
    limits: Limits = LIMITS
    trees: int = 0

    def opened(self, archive: Path, **how: Any) -> tuple[Path, Unpacked]:
        """What `unpack` makes of a file, in a fresh directory; a `whole` image unless `below` is given."""
        self.trees += 1
        target = self.folder / f"tree{self.trees}"
        target.mkdir()
        if how.get("below"):
            work = self.folder / f"work{self.trees}"
            work.mkdir()
            how = {**how, "below": [str(path) for path in how["below"]], "work": str(work)}
        how = {"whole": "below" not in how, "progress": lambda *_: None, **how}
        with open(archive, "rb") as file:
            found = unpack(file.fileno(), str(target), limits=self.limits, shown=archive.name, **how)
        return target, found

    def unpacked(self, *members: tuple[tarfile.TarInfo, bytes], **how: Any) -> Path:
        """The tree of an archive of `members`."""
        return self.opened(archive(self.folder / "image.tar", *members), **how)[0]

    def refusal(self, data: bytes, **how: Any) -> str:
        """What is said to an archive that nothing can be made of."""
        path = self.folder / "image.tar"
        path.write_bytes(data)
        with pytest.raises(ImageError) as refused:
            self.opened(path, **how)
        return str(refused.value)

    def stack(self, archives: Sequence[bytes]) -> list[Path]:
        """The trees of a stack of layers, lowest first: each alone if that works, else over those below."""
        trees: list[Path] = []
        for data in archives:
            path = self.folder / "layer.tar"
            path.write_bytes(data)
            try:
                tree, _ = self.opened(path, below=None if trees else ())
            except NeedsBelow:
                tree, _ = self.opened(path, below=trees[::-1])
            trees.append(tree)
        return trees


@contextlib.contextmanager
def overlaid(trees: Sequence[Path], at: Path) -> Iterator[Path]:
    """The trees, lowest first and all in one folder, mounted as one."""
    if len(trees) == 1:
        yield trees[0]
        return
    at.mkdir()
    here = os.getcwd()
    os.chdir(trees[0].parent)  # short names, as the kernel has a page for them
    try:
        layers = "lowerdir=" + ":".join(tree.name for tree in reversed(trees))
        if _libc.mount(b"t", os.fsencode(at), b"overlay", 1, layers.encode()):
            raise OSError(ctypes.get_errno(), "mount the overlay")
    finally:
        os.chdir(here)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def as_umoci(folder: Path, archives: Sequence[bytes]) -> dict[str, Found]:
    """What `umoci unpack` makes of the same layers."""
    layout = folder / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    oci = "application/vnd.oci.image"
    diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in archives]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), f"{oci}.config.v1+json"),
        "layers": [blob(gzip.compress(data, 1), f"{oci}.layer.v1.tar+gzip") for data in archives],
    }
    entry = blob(json.dumps(manifest).encode(), f"{oci}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    command = ["umoci", "unpack", "--image", f"{layout}:x", folder / "bundle"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return listing(folder / "bundle/rootfs")
