"""Imports that end early, killed, interrupted, out of space: what they leave, and the next one."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path

import pytest

from tests.archives import archive, member
from tests.kernel.layers import mounted
from tests.kernel.stores import MIB, Store, directory, tar, workers
from vsprov.errors import FailedError
from vsprov.store import images


@pytest.mark.parametrize("kind", ["tar", "directory"])
def test_an_import_killed_half_way_leaves_nothing_that_the_sweep_does_not_remove(
    store: Store, kind: str
) -> None:
    if kind == "tar":
        members = (member(f"f{n}", b"x") for n in range(20_000))
        source = tar(archive(store.folder / "image.tar", *members))
    else:
        source = directory(store.folder / "tree")
        (store.folder / "tree").mkdir()
        for n in range(6_000):
            (store.folder / f"tree/f{n}").write_bytes(b"x")
    deadline = time.monotonic() + 60
    with store.importing(source) as importer:
        making: list[Path] = []
        while not making or len(os.listdir(making[0] / "tree")) < 20:
            assert importer.poll() is None and time.monotonic() < deadline
            making = list(Path(store.instance.layers).glob(".making-*/tree"))
            making = [path.parent for path in making]
        assert len(workers(store.instance.root)) == (kind == "tar")
        importer.kill()
    while workers(store.instance.root):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert images.observe(store.instance) == {}
    assert not store.unused()
    assert store.sweep() == [str(making[0])]
    store.holds_nothing()
    assert store.sweep() == []


def test_an_import_that_is_interrupted_ends_its_worker_and_leaves_nothing(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", *(member(f"f{n}", b"x") for n in range(2_000))))
    seen: list[str] = []

    def interrupt(what: str, done: int, total: int) -> None:
        seen.append(what)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.imported(source, told=interrupt)
    assert seen == ["unpacked"]
    assert workers(store.instance.root) == []
    store.holds_nothing()


@pytest.mark.vm_subset
def test_on_a_full_disk_nothing_is_left_of_an_import(store: Store) -> None:
    tree = store.folder / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(2 * MIB))
    packed = archive(store.folder / "b.tar", member("big", os.urandom(2 * MIB)))
    with mounted("tmpfs", store.instance.name, Path(store.instance.root), "size=1m,mode=0700"):
        for source in (tar(packed), directory(tree)):
            said = store.refusal(source)
            assert said.endswith("'big': No space left on device") or said == "tree: No space left on device"


@pytest.mark.bare_debian
def test_an_import_without_a_free_descriptor_fails_cleanly(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", member("x")))
    resolved = store.resolve(source)
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcomes = []
    for spare in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
        filling = []
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(spare):
            os.close(filling.pop())
        try:
            store.take(source, resolved)
            outcomes.append(True)
        except FailedError as error:
            assert "Too many open files" in str(error)
            outcomes.append(False)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
            for fd in filling:
                os.close(fd)
        store.sweep()
        store.is_whole()
        assert ("base" in images.observe(store.instance)) == outcomes[-1]
        store.empty()
        store.holds_nothing()
    assert outcomes == sorted(outcomes)  # with more to spare, never worse
    assert set(outcomes) == {False, True}
