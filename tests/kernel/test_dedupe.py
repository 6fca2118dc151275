"""Equal files of different layers become one, on disk and in memory; no tree ever shows that it was done."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives import NET_RAW
from tests.conftest import Instance
from tests.kernel.layers import (
    WHEN,
    by_key,
    differences,
    disk,
    filled,
    first_block,
    forget,
    linked,
    mounted,
    pair,
    put,
    quiet,
    seal,
    settled,
    united,
)
from vsprov.store.disk import durable
from vsprov.store.layers import dedupe, sizes
from vsprov.store.layers.dedupe import Done

KIB, MIB = 1 << 10, 1 << 20
ON_EXT4 = pytest.mark.requires("ext4", "loop", "mkfs_ext4")


@pytest.fixture
def root(instance: Instance) -> Iterator[Path]:
    instance.root.mkdir()
    yield instance.root
    durable.remove_tree(str(instance.root))


# ---- what becomes one


@pytest.mark.vm_subset
def test_equal_files_become_one_inode_and_the_disk_gains_what_was_promised(root: Path) -> None:
    files = {"usr/bin/a": os.urandom(MIB), "usr/lib/deep/er/b": os.urandom(5000), "c": b"c", "empty": b""}
    one, two = pair(root, files)
    put(two / "tree/usr/bin/su", b"su", mode=0o4755)
    os.setxattr(two / "tree/usr/bin/su", "security.capability", NET_RAW)
    shutil.copytree(two, root / "three", symlinks=True)
    three = root / "three"
    os.setxattr(three / "tree/usr/bin/su", "security.capability", NET_RAW)
    seal(two), seal(three)
    layers = by_key(one, two, three)
    before = sizes.measure(layers).total
    plan = dedupe.find(layers)
    assert (plan.files, plan.bytes, plan.left_out) == (7, 2 * MIB + 2 * 8 * KIB + 3 * 4 * KIB, ())
    assert united(one, two, three) == Done(plan.files, plan.bytes, ())
    assert sizes.measure(layers).total == before - plan.bytes
    for name in files:
        assert linked(*(layer / "tree" / name for layer in (one, two, three))) == bool(files[name])
        assert (three / "tree" / name).read_bytes() == files[name]
    assert linked(two / "tree/usr/bin/su", three / "tree/usr/bin/su")
    assert os.lstat(two / "tree/usr/bin/su").st_mode & 0o7777 == 0o4755
    again = dedupe.find(layers)
    assert (again.groups, again.files, again.bytes) == ((), 0, 0)


def test_files_that_differ_in_anything_stay_apart(root: Path) -> None:
    same = {"usr/x": b"content"}
    layers = [filled(root / "plain", same)]

    def variant(name: str) -> Path:
        path = put(root / name / "tree/usr/x", b"content")
        layers.append(root / name)
        return path

    put(root / "content/tree/usr/x", b"CONTENT")
    layers.append(root / "content")
    os.chmod(variant("mode"), 0o600)
    os.chown(variant("owner"), 1, 0)
    os.chown(variant("group"), 0, 1)
    os.utime(variant("time"), ns=(WHEN, WHEN + 1))
    os.setxattr(variant("attribute"), "user.x", b"1")
    os.setxattr(variant("another"), "user.x", b"2")
    for layer in layers[1:]:
        seal(layer)
    assert dedupe.find(by_key(*layers)).groups == ()
    # What no listing has must be the same too.
    hidden = filled(root / "hidden", same)
    os.setxattr(hidden / "tree/usr/x", "trusted.label", b"secret")
    done = united(*layers, hidden)
    assert done.files == 0
    assert done.failures in (
        ("plain: usr/x: has different extended attributes from hidden: usr/x",),
        ("hidden: usr/x: has different extended attributes from plain: usr/x",),
    )


def test_what_servers_change_and_programs_count_links_of_stays_apart(root: Path) -> None:
    names = ("etc/crontab", "etc/cron.d/x", "root/.profile", "home/u/x", "var/spool/cron/u", "var/mail/u")
    one, two = pair(root, dict.fromkeys(names, b"same") | {"var/lib/x": b"x", "usr/etc/y": b"y"})
    assert united(one, two).files == 2
    for name in names:
        assert (one / "tree" / name).stat().st_nlink == 1
    assert linked(one / "tree/var/lib/x", two / "tree/var/lib/x")


def test_the_most_linked_inode_is_kept_and_an_old_one_counts_when_its_last_name_goes(root: Path) -> None:
    one, two = pair(root, {"a": bytes(MIB)})
    for number in range(3):
        os.link(two / "tree/a", two / f"tree/b{number}")
    os.link(one / "tree/a", root / "elsewhere")
    seal(two)
    kept = (two / "tree/a").stat().st_ino
    # A name that no layer has keeps the other inode.
    assert dedupe.find(by_key(one, two)).bytes == 0
    assert united(one, two) == Done(1, 0, ())
    assert (one / "tree/a").stat().st_ino == kept
    assert (root / "elsewhere").stat().st_nlink == 1


def test_equal_files_of_one_layer_stay_two_and_each_is_one_with_its_like_of_the_others(root: Path) -> None:
    names = ("usr/a", "usr/b", "usr/c")
    layers = [filled(root / key, dict.fromkeys(names, b"same")) for key in ("one", "two", "three")]
    moved = filled(root / "moved", {"opt/else": b"same"})
    done = united(*layers, moved)
    assert (done.files, done.bytes) == (7, 7 * 4 * KIB)
    for name in names:
        assert linked(*(layer / "tree" / name for layer in layers))
    for layer in layers:
        assert len({(layer / "tree" / name).stat().st_ino for name in names}) == 3
    assert (moved / "tree/opt/else").stat().st_nlink == 4  # it is one with any of the three
    assert dedupe.find(by_key(*layers, moved)).groups == ()


def test_a_plan_is_inert(root: Path) -> None:
    one, two = pair(root, {"usr/a": b"a"})

    def seen() -> list[tuple[str, int, int, int]]:
        paths = sorted(str(path) for path in root.rglob("*"))
        return [(p, (s := os.lstat(p)).st_ino, s.st_ctime_ns, s.st_nlink) for p in paths]

    before = seen()
    assert dedupe.find(by_key(one, two)).files == 1
    assert seen() == before


# ---- what is left alone


def damage(path: Path) -> None:
    """Change a file's content and none of its times."""
    status = path.stat()
    path.write_bytes(b"X" + path.read_bytes()[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("damaged", ["1", "2", "3", "4"])
def test_a_damaged_file_is_left_alone_and_told_and_the_others_become_one(root: Path, damaged: str) -> None:
    layers = [filled(root / name, {"usr/a": bytes(3 * MIB), "usr/b": b"b"}) for name in ("1", "2", "3", "4")]
    path = root / damaged / "tree/usr/a"
    damage(path)
    lone = path.stat().st_ino
    done = dedupe.apply(dedupe.find(by_key(*layers)), quiet, quiet)
    assert done == Done(2 + 3, 2 * 3 * MIB + 3 * 4 * KIB, (f"{damaged}: usr/a: content differs",))
    assert linked(*(layer / "tree/usr/a" for layer in layers if layer.name != damaged))
    assert (path.stat().st_ino, path.stat().st_nlink) == (lone, 1)
    for layer in layers:
        assert differences(layer) == (["usr/a: content differs"] if layer.name == damaged else [])


def test_a_file_that_changed_in_any_way_since_it_was_listed_is_left_alone(root: Path) -> None:
    files = dict.fromkeys(("a", "b", "c", "d", "e", "f"), b"")
    one, two = pair(root, {name: name.encode() for name in files})
    plan = dedupe.find(by_key(one, two))
    tree = (two if plan.groups[0].keep.layer == "one" else one) / "tree"
    os.chmod(tree / "a", 0o4755)
    os.unlink(tree / "b")
    os.symlink("/etc/passwd", tree / "b")
    os.unlink(tree / "c")
    os.utime(tree / "d", ns=(0, 0))
    os.truncate(tree / "e", 5)
    os.setxattr(tree / "f", "user.x", b"")
    key = tree.parent.name
    done = dedupe.apply(plan, quiet, quiet)
    assert sorted(done.failures) == [
        f"{key}: a: mode is 4755, was 0644",
        f"{key}: b: open: Too many levels of symbolic links",
        f"{key}: c: open: No such file or directory",
        f"{key}: d: mtime is 0.000000000, was 1700000000.123456789",
        f"{key}: e: has 5 bytes, had 1",
        f"{key}: f: user.x is new",
    ]
    assert done.files == 0


def test_a_symbolic_link_on_the_way_leads_nowhere(root: Path) -> None:
    one, two = pair(root, {"usr/a": b"a"})
    os.rename(two / "tree/usr", root / "outside")
    (two / "tree/usr").symlink_to(root / "outside")
    assert dedupe.find(by_key(one, two)).groups == ()
    plan = dedupe.find(by_key(one, filled(root / "three", {"usr/a": b"a"})))
    os.rename(root / "three/tree/usr", root / "outside3")
    (root / "three/tree/usr").symlink_to(root / "outside3")
    (said,) = dedupe.apply(plan, quiet, quiet).failures
    assert said == "three: usr/a: open: Not a directory"
    assert (root / "outside3/a").stat().st_nlink == 1


def test_a_layer_whose_listing_is_damaged_is_left_out_and_told(root: Path) -> None:
    one, two = pair(root, {"a": b"a"})
    three = filled(root / "three", {"a": b"a"})
    (three / "listing").write_bytes(b"")
    plan = dedupe.find(by_key(one, two, three))
    assert plan.files == 1
    assert plan.left_out == (f"{three}/listing: the listing is damaged; the layer itself may be intact",)
    assert dedupe.apply(plan, quiet, quiet).files == 1
    assert (three / "tree/a").stat().st_nlink == 1


@pytest.mark.requires("mkfs_ext4")  # chattr is of the same package
def test_an_immutable_file_is_left_alone_and_told(root: Path) -> None:
    one, two = pair(root, {"a": bytes(MIB), "b": b"b"})
    plan = dedupe.find(by_key(one, two))
    (last,) = plan.groups[0].others
    path = root / last.layer / "tree/a"
    subprocess.run(["chattr", "+i", path], check=True)
    try:
        done = dedupe.apply(plan, quiet, quiet)
    finally:
        subprocess.run(["chattr", "-i", path], check=True)
    (said,) = done.failures
    assert said.startswith(f"{last.layer}: a: link: Operation not permitted; share its blocks: ")
    assert done.files == 1
    settled(one), settled(two)


@ON_EXT4
def test_a_file_that_the_disk_does_not_give_out_is_told_and_left_alone(root: Path) -> None:
    with disk("ext4", root / "disk", 64 * MIB, "-b", "4096") as point:
        files = {"a": b"a", "large": os.urandom(8 * MIB)}
        layers = [filled(point / key, files) for key in ("one", "two")]
        plan = dedupe.find(by_key(*layers))
        durable.flush_all(str(point))
        for layer in layers:
            forget(layer / "tree/large")
        # The file beneath the loop device ends where the second of the large files goes on.
        backing = root / "disk/ext4.disk"
        os.truncate(backing, int(first_block(layers[1] / "tree/large").rstrip(".")) * 4 * KIB + 4 * MIB)
        try:
            told = [differences(layer) for layer in layers]
            done = dedupe.apply(plan, quiet, quiet)
        finally:
            os.truncate(backing, 64 * MIB)
    assert told == [[], ["large: cannot be read: Input/output error"]]
    assert done == Done(1, 4 * KIB, ("two: large: read: Input/output error",))


# ---- file systems


@ON_EXT4
def test_an_inode_with_as_many_links_as_the_file_system_allows_is_followed_by_a_second(root: Path) -> None:
    with disk("ext4", root / "disk", 32 * MIB, "-b", "4096") as point:
        layers = [filled(point / f"{number}", {"a": b"a"}) for number in range(5)]
        full = point / "full"
        full.mkdir()
        kept = (layers[0] / "tree/a").stat().st_ino
        for number in range(65_000 - 2):
            os.link(layers[0] / "tree/a", full / f"{number}")
        plan = dedupe.find(by_key(*layers))
        assert (plan.files, plan.bytes) == (1 + 2, 3 * 4 * KIB)
        # Someone else was faster, and there is no room left at all.
        os.link(layers[0] / "tree/a", full / "more")
        done = dedupe.apply(plan, quiet, quiet)
        assert (done.files, done.failures) == (2, ())
        again = united(*layers)
        inodes = [(layer / "tree/a").stat().st_ino for layer in layers]
        assert (again.files, len(set(inodes)), inodes[0]) == (1, 2, kept)
        assert dedupe.find(by_key(*layers)).groups == ()


@pytest.mark.requires("btrfs", "loop", "mkfs_btrfs")
def test_on_btrfs_files_become_one_inode_and_across_mounts_share_blocks(root: Path) -> None:
    content = os.urandom(300 * KIB + 7)
    with disk("btrfs", root / "disk", 128 * MIB) as point:
        one, two = pair(point, {"usr/a": content, "usr/small": b"s"})
        assert united(one, two).files == 2
        assert linked(one / "tree/usr/a", two / "tree/usr/a")
        filled(point / "far/three", {"usr/a": content, "usr/small": b"s"})
        with mounted("bind", point / "far", root / "bound"):
            three = root / "bound/three"
            said: list[str] = []
            layers = by_key(one, three)
            before = [(three / "tree/usr/a").stat().st_ino, os.stat(three / "tree/usr").st_mtime_ns]
            done = dedupe.apply(dedupe.find(layers), quiet, said.append)
            blocks = (three / "tree/usr/a").stat().st_blocks * 512
            assert done == Done(1, blocks, ())
            assert [(three / "tree/usr/a").stat().st_ino, os.stat(three / "tree/usr").st_mtime_ns] == before
            keep = dedupe.find(layers).groups[0].keep.layer
            changed = three if keep == "one" else one
            assert said == [
                f"{changed}: its files cannot be hard-linked (Invalid cross-device link): "
                "equal ones share disk blocks, but no memory"
            ]
            assert first_block(one / "tree/usr/a") == first_block(three / "tree/usr/a")
            # What shares its blocks already is not gained a second time.
            assert dedupe.apply(dedupe.find(layers), quiet, said.append) == Done(0, 0, ())
            settled(one), settled(three)


@ON_EXT4
def test_where_neither_links_nor_blocks_can_be_shared_that_is_told_and_nothing_changes(root: Path) -> None:
    with disk("ext4", root / "disk", 32 * MIB) as point:
        one = filled(point / "one", {"a": bytes(MIB), "small": b"s"})
        filled(point / "far/two", {"a": bytes(MIB), "small": b"s"})
        with mounted("bind", point / "far", root / "bound"):
            two = root / "bound/two"
            done = united(one, two)
            assert (done.files, done.bytes, len(done.failures)) == (0, 0, 1)
            assert done.failures[0].endswith(
                ": a: link: Invalid cross-device link; share its blocks: Operation not supported"
            )


def test_layers_on_different_file_systems_have_nothing_in_common(root: Path) -> None:
    one, two = pair(root, {"a": bytes(MIB)})
    with mounted("tmpfs", root.parent.name, root / "memory") as memory:
        three, four = filled(memory / "three", {"a": bytes(MIB)}), filled(memory / "four", {"a": bytes(MIB)})
        assert united(one, two, three, four) == Done(2, 2 * MIB, ())
        assert linked(one / "tree/a", two / "tree/a")
        assert linked(three / "tree/a", four / "tree/a")


@ON_EXT4
def test_a_full_disk_gains_space(root: Path) -> None:
    with disk("ext4", root / "disk", 16 * MIB) as point:
        one, two = pair(point, {f"usr/{number}": os.urandom(20_000) for number in range(20)})
        with open(point / "fill", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(KIB))
        before = os.statvfs(point).f_bfree
        done = united(one, two)
        assert (done.files, done.failures) == (20, ())
        subprocess.run(["sync", "-f", point], check=True)
        assert (os.statvfs(point).f_bfree - before) * os.statvfs(point).f_frsize == done.bytes
