"""Layers of one image being made: all get their names together, or none does."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernel.stores import Store, quiet
from vsprov.errors import FailedError, ImageError
from vsprov.store.disk import folders, marks
from vsprov.store.layers import layers
from vsprov.store.layers.verify import verify

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def ready(store: Store) -> Store:
    folders.prepare(store.instance)
    return store


def put(batch: layers.Batch, key: str, name: str, word: str = "x") -> None:
    def fill(into: str) -> None:
        Path(into, name).write_text(word)

    batch.make(key, fill)


def test_layers_of_a_batch_have_names_when_it_ends_and_marks_and_listings(ready: Store) -> None:
    with layers.batch(ready.instance, quiet) as batch:
        put(batch, ONE, "a")
        put(batch, TWO, "b")
        assert layers.keys(ready.instance) == set()
        assert Path(batch.tree(ONE), "a").exists() and batch.has(TWO)
    assert layers.keys(ready.instance) == {ONE, TWO}
    for key in (ONE, TWO):
        path = layers.path(ready.instance, key)
        assert layers.is_ours(ready.instance, key)
        assert marks.read_mark(path, layers.MARK) == ready.instance.name
        assert verify(path, quiet) == []
        assert os.stat(f"{path}/tree").st_mode & 0o7777 == 0o755
        assert os.stat(path).st_mode & 0o7777 == 0o700
    assert ready.half_made() == []


def test_nothing_of_a_batch_stays_when_it_fails(ready: Store) -> None:
    with pytest.raises(ZeroDivisionError), layers.batch(ready.instance, quiet) as batch:
        put(batch, ONE, "a")
        batch.begin(lambda into: None)
        raise ZeroDivisionError
    assert os.listdir(ready.instance.layers) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ImageError("no")])
def test_a_layer_that_cannot_be_filled_takes_its_batch_along(ready: Store, error: Exception) -> None:
    def fill(into: str) -> None:
        Path(into, "half").write_text("x")
        raise error

    with pytest.raises(FailedError, match="No space left on device" if isinstance(error, OSError) else "no"):
        with layers.batch(ready.instance, quiet) as batch:
            put(batch, ONE, "a")
            batch.make(TWO, fill)
    assert os.listdir(ready.instance.layers) == []


def test_progress_that_raises_while_a_layer_is_listed_takes_it_away(ready: Store) -> None:
    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), layers.batch(ready.instance, stop) as batch:
        put(batch, ONE, "a", "x" * (3 << 20))
    assert os.listdir(ready.instance.layers) == []


def test_a_layer_that_is_there_is_not_made_again(ready: Store) -> None:
    for word in ("first", "second"):
        with layers.batch(ready.instance, quiet) as batch:
            put(batch, ONE, "a", word)
            put(batch, ONE, "a", "third")
    assert Path(layers.tree(ready.instance, ONE), "a").read_text() == "first"


def test_the_first_of_two_batches_that_make_the_same_layer_gives_it_its_name(ready: Store) -> None:
    met = threading.Barrier(2)

    def work(number: int) -> None:
        with layers.batch(ready.instance, quiet) as batch:
            put(batch, ONE, "shared", str(number))
            put(batch, str(number) * 64, "own")
            met.wait(10)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (3, 4)))
    assert layers.keys(ready.instance) == {ONE, "3" * 64, "4" * 64}
    ready.is_whole()


@pytest.mark.parametrize("key", ["", "..", "x" * 64, "A" * 64])
def test_a_layer_gets_no_name_that_is_no_digest(ready: Store, key: str) -> None:
    with pytest.raises(ImageError, match="is not a sha256"), layers.batch(ready.instance, quiet) as batch:
        batch.keep(key, batch.begin(lambda into: None))
    assert os.listdir(ready.instance.layers) == []
