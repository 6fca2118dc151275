"""What the tests of this folder share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks, registry
from tests.features import SERVERS
from tests.instance import Instance as Own
from tests.kernel.guests import Workshop, open_workshop
from tests.kernel.houses import House
from tests.kernel.stores import Store, store_of
from tests.lab import wait_until


@pytest.fixture
def store(instance: Own, tmp_path: Path) -> Iterator[Store]:
    yield from store_of(instance.name, str(instance.root), tmp_path)


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    with open_workshop() as made:
        yield made


@pytest.fixture
def house() -> Iterator[House]:
    with open_workshop() as workshop:
        spawned = workshop.request("sleep", "1000")
        yield House(workshop, workshop.run(spawned), spawned)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory for disk images, on the disk; nothing of it may stay attached."""
    made = Path(tempfile.mkdtemp(prefix=leaks.PREFIX, dir=SERVERS))
    yield made
    wait_until(lambda: not leaks.loops(made))
    shutil.rmtree(made)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of whoever runs the tests."""
    registry.nobody(monkeypatch, tmp_path)
