"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.instance import Instance as Own
from tests.kernel.stores import Store, store_of


@pytest.fixture
def store(instance: Own, tmp_path: Path) -> Iterator[Store]:
    yield from store_of(instance.name, str(instance.root), tmp_path)
