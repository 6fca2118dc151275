"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import registry
from tests.instance import Instance as Own
from tests.kernel.guests import Workshop, open_workshop
from tests.kernel.houses import House
from tests.kernel.stores import Store, store_of


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
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of whoever runs the tests."""
    registry.nobody(monkeypatch, tmp_path)
