"""What the tests of export and import share."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.instance import own_instance
from tests.lab import Lab


@pytest.fixture
def other(lab: Lab) -> Iterator[Lab]:
    """Another host, as far as vsprov can tell: an instance with a store of its own."""
    with own_instance() as instance:
        yield Lab(instance)


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    """What a tar program finds in an export."""
    data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes()), read_across_frames=True)
    with tarfile.open(fileobj=io.BytesIO(data.read())) as tar:
        return {one.name: one for one in tar.getmembers()}


def staged(lab: Lab) -> list[str]:
    found = lab.vsprov.root / "transfers"
    return sorted(os.listdir(found)) if found.exists() else []
