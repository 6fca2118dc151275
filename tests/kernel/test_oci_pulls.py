"""Images of registries and archives whose import ends early at any point: what it leaves, and the next."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import registry as lab
from tests.archives import folder, member, packed
from tests.effort import LONG
from tests.http_servers import cutting
from tests.kernel.layers import disk, mounted
from tests.kernel.stores import MIB, Store, layout, workers
from tests.lab import wait_until
from tests.trees import Found
from vsprov.errors import FailedError
from vsprov.model.sources import OciSource, Source
from vsprov.store import images
from vsprov.store.disk import durable
from vsprov.store.layers import layers

pytestmark = pytest.mark.requires("docker_registry", "skopeo", "overlay")

_dice = random.Random(1)
BASE = packed(folder("big"), member("big/one", _dice.randbytes(2 * MIB)), member("big/gone", b"x"))
STEPS = 16 if LONG else 6  # how much space there may be, between none and enough
POINTS = 6 if LONG else 3  # at which an import is broken off, after its first few
MANY = packed(folder("many"), *(member(f"many/f{n:05}", b"") for n in range(1500)))
OVER = packed(member("big/.wh.gone"), member("big/two", _dice.randbytes(MIB)))


class Cancelled(Exception):
    """What a progress callback raises."""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[lab.Registry, Path]]:
    """A registry with an image app:1, and the image as an archive."""
    folder = tmp_path_factory.mktemp("registry")
    made = lab.named(folder / "layout", x=lab.image(folder / "layout", BASE, MANY, OVER))
    archive = folder / "app.tar"
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"oci:{made}:x", f"docker-archive:{archive}:app:1"], check=True
    )
    with lab.running(folder) as registry:
        registry.push(made, "app:1", "x")
        yield registry, archive


@pytest.fixture(params=["ref", "archive"])
def source(
    request: pytest.FixtureRequest,
    pushed: tuple[lab.Registry, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Source:
    lab.nobody(monkeypatch, tmp_path)
    registry, archive = pushed
    if request.param == "ref":
        return Source(oci=OciSource(ref=f"{registry.host}/app:1"))
    return Source(oci=OciSource(archive=str(archive)))


def is_imported(store: Store) -> None:
    """The image is there, whole, and nothing else; not even a download."""
    store.is_whole()
    assert set(layers.keys(store.instance)) == set(store.keys())
    assert os.listdir(store.instance.downloads) == []
    found: dict[str, Found] = store.contents()
    assert len([name for name in found if name.startswith("many/")]) == 1500
    assert sorted(name for name in found if name.startswith("big/")) == ["big/one", "big/two"]
    assert found["big/one"].content is not None and len(found["big/one"].content) == 2 * MIB


def downloaded(store: Store) -> int:
    """Bytes of blobs that are kept for the next try."""
    folder = Path(store.instance.downloads)
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.exists() else 0


def stopping_after(calls: int) -> tuple[Callable[[str, int, int], None], list[str]]:
    """Progress that raises at its call of this number, as every thread then does; and what it was told."""
    told: list[str] = []

    def tell(what: str, done: int, total: int) -> None:
        told.append(what)
        if len(told) > calls:
            raise Cancelled(what)

    return tell, told


def test_an_import_cancelled_at_any_point_leaves_nothing_half_made_and_the_next_goes_on(
    store: Store, source: Source
) -> None:
    tell, told = stopping_after(1 << 30)
    store.imported(source, told=tell)
    is_imported(store)
    kinds = {what.split()[0] for what in told}
    assert {"unpacked", "download" if source.oci and source.oci.ref else "check"} <= kinds
    store.empty()
    for calls in sorted({*range(4), *range(4, len(told), max(1, len(told) // POINTS))}):
        tell, stopped = stopping_after(calls)
        try:
            store.imported(source, told=tell)
        except Cancelled:
            assert len(stopped) > calls
            assert images.observe(store.instance) == {} and layers.keys(store.instance) == set()
            store.holds_nothing()
        assert workers(store.instance.root) == []
        store.imported(source)
        is_imported(store)
        store.empty()


def test_what_a_cancelled_pull_has_fetched_is_not_fetched_again(
    store: Store, pushed: tuple[lab.Registry, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.nobody(monkeypatch, store.folder)
    with cutting(pushed[0].host, 1 << 40) as proxy:
        source = Source(oci=OciSource(ref=f"{proxy.host}/app:1"))
        resolved = store.resolve(source)

        def stop(what: str, done: int, total: int) -> None:
            if what.startswith("download") and total > 2 * MIB and done > MIB:
                raise Cancelled(what)

        with pytest.raises(Cancelled):
            store.take(source, resolved, told=stop)
        store.holds_nothing()
        kept = max(path.stat().st_size for path in Path(store.instance.downloads).glob("*.part"))
        proxy.ranges.clear()
        store.take(source, resolved)
        assert f"{kept}-" in proxy.ranges
    is_imported(store)


def test_a_download_of_an_import_that_was_given_up_goes_with_what_nothing_needs(
    store: Store, pushed: tuple[lab.Registry, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.nobody(monkeypatch, store.folder)
    source = Source(oci=OciSource(ref=f"{pushed[0].host}/app:1"))
    tell, _ = stopping_after(4)
    with pytest.raises(Cancelled):
        store.imported(source, told=tell)
    assert downloaded(store) > 0
    assert store.sweep() == [] and downloaded(store) > 0
    assert images.download_bytes(store.instance) >= downloaded(store)
    images.collect(store.instance, store.unused())
    assert os.listdir(store.instance.downloads) == []


def test_an_import_killed_at_any_point_is_swept_and_done_by_the_next(store: Store, source: Source) -> None:
    with store.importing(source) as importer:
        assert importer.stdout is not None
        lines = len(importer.stdout.readlines())
    assert importer.returncode == 0
    is_imported(store)
    store.empty()
    killed = 0
    for line in sorted({1, 2, *range(4, lines, max(1, lines // POINTS))}):
        with store.importing(source) as importer:
            assert importer.stdout is not None
            for _ in range(line):
                importer.stdout.readline()
            importer.kill()
        killed += importer.returncode != 0
        wait_until(lambda: not workers(store.instance.root))
        store.sweep()
        store.is_whole()
        store.imported(source)
        is_imported(store)
        store.empty()
    assert killed >= 3


# ---- no space


def fill(ballast: Path, free: int) -> None:
    """Take all space of a file system but about `free` bytes: ext4 needs some for itself."""
    about = os.statvfs(ballast.parent)
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(4096, about.f_bavail * about.f_frsize - free - (64 << 10)))


def attempts(store: Store, source: Source, room: int) -> set[str]:
    """Import with ever more space, from none to `room` bytes; what the failures said.

    Nothing may be left of one that failed, and the next, with space enough, must succeed.
    """
    ballast = Path(store.instance.root) / "ballast"
    said = set()
    succeeded = 0
    for free in range(0, room, room // STEPS):
        fill(ballast, free)
        try:
            store.imported(source)
            succeeded += 1
        except FailedError as error:
            assert "No space left on device" in str(error)
            assert error.hint.startswith("free some space on /"), error
            said.add(str(error))
            assert images.observe(store.instance) == {}
            assert store.half_made() == []
        assert workers(store.instance.root) == []
        ballast.unlink()
        assert store.sweep() == []
        store.is_whole()
        store.imported(source)
        is_imported(store)
        store.empty()
    assert succeeded > 0
    return said


@pytest.mark.requires("mkfs_ext4", "loop")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_where_the_space_ends_the_store_stays_whole_and_the_next_try_succeeds(
    store: Store, source: Source, kind: str
) -> None:
    room = 9 * MIB if source.oci and source.oci.ref else 13 * MIB
    with contextlib.ExitStack() as stack:
        root = Path(store.instance.root)
        if kind == "tmpfs":
            stack.enter_context(mounted("tmpfs", store.instance.name, root, "size=24m,mode=0700"))
        else:
            small = stack.enter_context(disk("ext4", store.folder, 40 * MIB, "-m", "0", "-N", "4000"))
            stack.enter_context(mounted("bind", small, root))
        said = attempts(store, source, room)
        stack.callback(clear, root)
    first = ": download: " if source.oci and source.oci.ref else "app.tar: unpack: "
    for pattern in (first, "layer [0-9a-f]{12}: "):
        assert any(re.search(pattern, line) for line in said), (pattern, said)


@pytest.mark.parametrize("room", range(0, 300 << 10, 64 << 10))
def test_where_the_space_ends_with_the_listing_the_layer_is_not_kept(store: Store, room: int) -> None:
    lab.named(store.folder / "layout", x=lab.image(store.folder / "layout", MANY))
    root = Path(store.instance.root)
    with mounted("tmpfs", store.instance.name, root, "size=1m,mode=0700"):
        fill(root / "ballast", room)
        try:
            store.imported(layout(store.folder / "layout"))
        except FailedError as error:
            assert "listing: write the listing: No space left on device" in str(error)
            store.holds_nothing()
        else:
            assert room > 0
        (root / "ballast").unlink()
        store.imported(layout(store.folder / "layout"))
        store.is_whole()
        clear(root)


def clear(root: Path) -> None:
    for name in os.listdir(root):
        durable.remove_tree(f"{root}/{name}")
