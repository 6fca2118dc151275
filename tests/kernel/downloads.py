"""What the tests of downloads share: a blob, and what is made of a name and kept of a download."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from vsprov.errors import ImageError
from vsprov.model.values.image_reference import parse_reference
from vsprov.store.registry.parts import RegistryParts

MIB = 1 << 20
BLOB = random.Random(2).randbytes(3 * MIB)
DIGEST = hashlib.sha256(BLOB).hexdigest()


def parts(tmp_path: Path, name: str) -> RegistryParts:
    return RegistryParts(parse_reference(name), str(tmp_path / "downloads"))


def held(tmp_path: Path) -> dict[str, int]:
    """What lies in the folder of downloads, with its size; digests are shortened to "whole"."""
    folder = tmp_path / "downloads"
    return {path.name.replace(DIGEST, "whole"): path.stat().st_size for path in folder.iterdir()}


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(ImageError) as refused:
        work()
    assert str(refused.value).isprintable()
    return str(refused.value)


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
