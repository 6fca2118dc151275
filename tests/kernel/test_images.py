"""Records of images, and what is kept for them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.archives import archive, member
from tests.kernel.stores import Store, tar
from vsprov.errors import ConflictError, ImageError
from vsprov.store import images
from vsprov.store.disk import marks, sealed
from vsprov.store.disk.marks import Owner
from vsprov.store.layers import layers
from vsprov.store.sources import Resolved


def test_a_record_reads_back_and_bears_its_owner(store: Store) -> None:
    record = store.imported(tar(archive(store.folder / "image.tar", member("x"))))
    path = Path(store.instance.images, "base.json")
    assert images.observe(store.instance) == {"base": record}
    assert (record.owners, record.problem, store.keys()) == ((store.owner,), "", (record.digest,))
    assert record.spec["source"] == {"tar": {"path": f"{store.folder}/image.tar"}}
    assert path.stat().st_mode & 0o7777 == 0o600
    assert os.listdir(store.instance.layers) == [record.digest]


def test_two_images_of_one_archive_share_a_layer_which_goes_with_the_last(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", member("x")))
    first = store.imported(source, "one")
    made = store.layer("one").stat().st_ino
    second = store.imported(source, "two")
    assert (second.digest, store.layer("two").stat().st_ino) == (first.digest, made)
    assert not store.unused()
    for _ in range(2):
        images.remove(store.instance, "one")
    assert not store.unused()
    images.remove(store.instance, "two")
    assert not store.unused(first.digest)
    free = store.unused()
    assert free == images.Unused((first.digest,), (first.digest,))
    for _ in range(2):
        images.collect(store.instance, free)
    store.holds_nothing()


def test_a_damaged_record_keeps_every_layer_and_is_mended_by_the_next_import(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", member("x")))
    record = store.imported(source)
    path = Path(store.instance.images, "base.json")
    incomplete = {"digest": "x"}
    traversing = {"digest": "../../x", "spec": {}, "fingerprint": ""}
    for damage in (path.read_bytes()[:-9], b"", b"{}", sealed.seal(incomplete), sealed.seal(traversing)):
        path.write_bytes(damage)
        (seen,) = images.observe(store.instance).values()
        assert (seen.owners, seen.digest, seen.contents) == ((store.owner,), "", None)
        assert seen.problem.startswith("base.json ")
        assert not store.unused()
        assert store.imported(source) == record
        assert images.observe(store.instance) == {"base": record}


def test_a_missing_layer_is_told_and_made_again(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", member("x", b"x")))
    record = store.imported(source)
    shutil.rmtree(layers.path(store.instance, record.digest))
    assert images.observe(store.instance)["base"].problem == f"layer {record.digest} is missing"
    assert store.imported(source) == record
    assert images.observe(store.instance)["base"].problem == ""
    assert (store.layer() / "x").read_bytes() == b"x"


def test_records_and_layers_of_others_are_never_touched(store: Store) -> None:
    source = tar(archive(store.folder / "image.tar", member("x")))
    record = store.imported(source)
    path = Path(store.instance.images, "base.json")
    for owner in (Owner("another", "default"), None):
        marks.remove_mark(str(path), marks.OWNER) if owner is None else marks.write_owner(str(path), owner)
        with pytest.raises(ConflictError, match="left untouched"):
            store.imported(source)
    with pytest.raises(ConflictError, match="left untouched"):
        images.remove(store.instance, "base")
    marks.write_owner(str(path), Owner(store.instance.name, "another"))
    different = tar(archive(store.folder / "other.tar", member("y")))
    with pytest.raises(ConflictError, match=r"belongs to [^ ]+/another: left untouched"):
        store.take(different, store.resolve(different))
    store.imported(source)  # sets of one instance share what is the same in both
    assert [owner.set for owner in store.record().owners] == ["another", "default"]
    os.unlink(path)
    os.mkdir(f"{store.instance.layers}/{'0' * 64}")
    os.mkdir(f"{store.instance.layers}/lost+found")
    assert store.unused().layers == (record.digest,)


@pytest.mark.parametrize(
    "digest", ["", "..", "../../x", "a" * 63, "A" * 64, "a" * 64 + "\n", f"sha256:{'a' * 64}"]
)
def test_what_is_no_digest_never_becomes_a_path(store: Store, digest: str) -> None:
    with pytest.raises(ImageError, match="is not a sha256"):
        layers.path(store.instance, digest)
    with pytest.raises(ImageError, match="is not a sha256"):
        layers.remove(store.instance, digest)
    source = tar(archive(store.folder / "image.tar", member("x")))
    with pytest.raises(ImageError, match="is not a sha256"):
        store.take(source, Resolved(digest, ""))
