"""What a listing says of a layer's tree, and that nothing can change in the tree without being told."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.archives import NET_RAW
from tests.conftest import Instance
from tests.effort import examples
from tests.kernel.layers import WHEN, differences, put, quiet, seal
from vsprov.errors import ImageError
from vsprov.store.disk import durable
from vsprov.store.layers import listing
from vsprov.store.layers.listing import Item
from vsprov.store.layers.verify import verify

MIB = 1 << 20


@pytest.fixture
def layer(instance: Instance) -> Iterator[Path]:
    """A layer without a listing, with one of everything that a layer may hold."""
    made = instance.root / "layer"
    tree = made / "tree"
    put(tree / "usr/bin/ping", b"ping", mode=0o4755, owner=12)
    os.setxattr(tree / "usr/bin/ping", "security.capability", NET_RAW)
    os.setxattr(tree / "usr/bin/ping", "user.note", b"\0\xff")
    os.setxattr(tree / "usr/bin/ping", "trusted.other", b"no part of an image")
    put(tree / "usr/lib/large", bytes(range(256)) * 10_000)
    put(tree / "usr/lib/empty", b"")
    put(tree / "usr/lib/odd\udcff\n name", b"odd")
    put(tree / "usr/lib/.wh.plain", b"no whiteout in a layer")
    put(tree / "usr.d/x", b"sorts after all of usr")
    (tree / "bin").symlink_to("usr/bin")
    os.utime(tree / "bin", ns=(WHEN, WHEN), follow_symlinks=False)
    os.link(tree / "usr/bin/ping", tree / "usr/bin/ping6")
    (tree / "etc").mkdir(0o711)
    os.setxattr(tree / "etc", "trusted.overlay.opaque", b"y")
    os.mknod(tree / "etc/gone", stat.S_IFCHR, os.makedev(0, 0))
    os.utime(tree / "etc/gone", ns=(WHEN, WHEN))
    yield made
    durable.remove_tree(str(instance.root))


def items(layer: Path) -> dict[str, Item]:
    return {item.path: item for item in listing.read(f"{layer}/listing")}


def test_a_listing_says_all_that_makes_a_tree(layer: Path) -> None:
    seal(layer)
    found = items(layer)
    ping = Item(
        "usr/bin/ping", "f", 0o4755, 12, 12, WHEN, 4, hashlib.sha256(b"ping").hexdigest(),
        {"security.capability": NET_RAW.hex(), "user.note": "00ff"},
    )  # fmt: skip
    assert list(found) == [
        "", "bin", "etc", "etc/gone", "usr", "usr/bin", "usr/bin/ping", "usr/bin/ping6", "usr/lib",
        "usr/lib/.wh.plain", "usr/lib/empty", "usr/lib/large", "usr/lib/odd\udcff\n name", "usr.d", "usr.d/x",
    ]  # fmt: skip
    assert found["usr/bin/ping"] == ping
    assert found["usr/bin/ping6"] == ping._replace(path="usr/bin/ping6")
    assert found["bin"] == Item("bin", "l", 0o777, 0, 0, WHEN, 0, "usr/bin", {})
    assert found["etc"] == Item("etc", "d", 0o711, 0, 0, WHEN + 1, 0, "", {"trusted.overlay.opaque": "79"})
    assert found["etc/gone"] == Item("etc/gone", "w", 0, 0, 0, WHEN, 0, "", {})
    assert listing.summary(f"{layer}/listing") == listing.Summary(15, 2_560_000 + 4 + 4 + 3 + 22 + 22)
    assert sorted(os.listdir(layer)) == ["listing", "tree"]
    assert differences(layer) == []


CHANGES: dict[str, Callable[[Path], object]] = {
    "usr/bin/ping: content differs": lambda tree: put_back(tree / "usr/bin/ping", b"pinG"),
    "usr/lib/large: content differs": lambda tree: flip(tree / "usr/lib/large", 2_559_999),
    "usr/lib/large: has 2560001 bytes, had 2560000": lambda tree: put_back(
        tree / "usr/lib/large", bytes(2_560_001)
    ),
    "usr/lib/empty: has 1 bytes, had 0": lambda tree: put_back(tree / "usr/lib/empty", b"x"),
    "usr/bin/ping: mode is 0755, was 4755": lambda tree: os.chmod(tree / "usr/bin/ping", 0o755),
    "usr/lib/empty: belongs to 0:1, belonged to 0:0": lambda tree: os.chown(tree / "usr/lib/empty", 0, 1),
    "bin: belongs to 1:0, belonged to 0:0": lambda tree: os.chown(tree / "bin", 1, 0, follow_symlinks=False),
    "bin: mtime is 1.000000000, was 1700000000.123456789": lambda tree: os.utime(
        tree / "bin", ns=(1, 10**9), follow_symlinks=False
    ),
    "usr/lib/empty: mtime is -0.000000001, was 1700000000.123456789": lambda tree: os.utime(
        tree / "usr/lib/empty", ns=(1, -1)
    ),
    "usr: mtime is 1700000000.123456788, was 1700000000.123456791": lambda tree: os.utime(
        tree / "usr", ns=(1, WHEN - 1)
    ),
    "bin: points to 'usr/sbin', pointed to 'usr/bin'": lambda tree: relink(tree / "bin", "usr/sbin"),
    "usr/bin/ping: user.note differs": lambda tree: os.setxattr(tree / "usr/bin/ping", "user.note", b"\0"),
    "usr/bin/ping: user.more is new": lambda tree: os.setxattr(tree / "usr/bin/ping", "user.more", b""),
    "usr/bin/ping: security.capability is missing": lambda tree: os.removexattr(
        tree / "usr/bin/ping", "security.capability"
    ),
    "etc: trusted.overlay.opaque is missing": lambda tree: os.removexattr(
        tree / "etc", "trusted.overlay.opaque"
    ),
    "usr: is missing": lambda tree: shutil.rmtree(tree / "usr"),
    "usr.d/x: is missing": lambda tree: at_rest(tree / "usr.d", lambda: os.unlink(tree / "usr.d/x")),
    "etc/gone: is missing": lambda tree: at_rest(tree / "etc", lambda: os.unlink(tree / "etc/gone")),
    "etc/new: is new": lambda tree: at_rest(tree / "etc", lambda: put(tree / "etc/new/a/b/c", b"x")),
    "'usr.d/\\x1b[2J': is new": lambda tree: at_rest(
        tree / "usr.d", lambda: os.mkfifo(tree / "usr.d/\x1b[2J")
    ),
    "usr/lib: is a symbolic link, was a directory": lambda tree: at_rest(
        tree / "usr",
        lambda: (os.rename(tree / "usr/lib", tree / "../lib"), os.symlink("x", tree / "usr/lib")),
    ),
    "usr.d/x: is a directory, was a file": lambda tree: at_rest(
        tree / "usr.d", lambda: (os.unlink(tree / "usr.d/x"), put(tree / "usr.d/x/y/z", b"x"))
    ),
    "etc/gone: is a character device, was a whiteout": lambda tree: at_rest(
        tree / "etc",
        lambda: (os.unlink(tree / "etc/gone"), os.mknod(tree / "etc/gone", stat.S_IFCHR, os.makedev(1, 3))),
    ),
}  # fmt: skip


def put_back(path: Path, content: bytes) -> None:
    """Change a file's content and none of its times."""
    status = path.stat()
    os.chmod(path, 0o600)  # else the write takes the setuid bit, and capabilities with it
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    path.write_bytes(content)
    for name, value in attributes.items():
        os.setxattr(path, name, value)
    os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    put_back(path, bytes(content))


def relink(path: Path, target: str) -> None:
    def change() -> None:
        path.unlink()
        path.symlink_to(target)
        os.utime(path, ns=(WHEN, WHEN), follow_symlinks=False)

    at_rest(path.parent, change)


def at_rest(folder: Path, change: Callable[[], object]) -> None:
    """Change what is in a folder, and not its time."""
    status = folder.stat()
    change()
    os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("said", CHANGES)
def test_each_change_is_told_in_words_and_alone(layer: Path, said: str) -> None:
    seal(layer)
    top = (layer / "tree").stat().st_mtime_ns
    CHANGES[said](layer / "tree")
    os.utime(layer / "tree", ns=(top, top))
    # Both names of a file with two tell of it.
    assert differences(layer) == [said, said.replace("ping:", "ping6:")][: 2 if "ping:" in said else 1]


def test_any_flipped_byte_of_a_file_is_told_its_last_one_too(layer: Path) -> None:
    seal(layer)
    large = layer / "tree/usr/lib/large"
    for at in (0, 1, MIB - 1, MIB, 2 * MIB, 2_559_998, 2_559_999):
        flip(large, at)
        assert differences(layer) == ["usr/lib/large: content differs"]
        flip(large, at)
    assert differences(layer) == []


def test_after_a_hundred_differences_only_their_number_is_told(layer: Path) -> None:
    for number in range(130):
        put(layer / f"tree/many/{number:03}", b"x")
    seal(layer)
    for number in range(130):
        os.chmod(layer / f"tree/many/{number:03}", 0o600)
    told = differences(layer)
    assert told[0] == "many/000: mode is 0600, was 0644"
    assert told[99:] == ["many/099: mode is 0600, was 0644", "and 30 more differences"]


def test_hard_links_that_come_and_go_are_no_difference(layer: Path) -> None:
    seal(layer)
    tree = layer / "tree"

    def split() -> None:
        shutil.copy2(tree / "usr/bin/ping", tree / "usr/bin/new")
        os.chown(tree / "usr/bin/new", 12, 12)
        os.chmod(tree / "usr/bin/new", 0o4755)
        os.setxattr(tree / "usr/bin/new", "security.capability", NET_RAW)
        os.utime(tree / "usr/bin/new", ns=(WHEN, WHEN))
        os.rename(tree / "usr/bin/new", tree / "usr/bin/ping6")

    at_rest(tree / "usr/bin", split)
    assert (tree / "usr/bin/ping").stat().st_nlink == 1
    assert differences(layer) == []


NAME = st.binary(min_size=1, max_size=4).filter(lambda name: not {0, ord("/")} & {*name} and name.strip(b"."))


@settings(examples(), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.lists(NAME, min_size=1, max_size=4).map(tuple), min_size=1, max_size=8), st.data())
def test_whatever_the_names_a_tree_is_as_it_was_made_and_what_goes_is_told_alone(
    instance: Instance, paths: set[tuple[bytes, ...]], data: st.DataObject
) -> None:
    layer = instance.root / "layer"
    tree = layer / "tree"
    for path in paths:
        (tree / os.fsdecode(b"/".join(path))).mkdir(parents=True, exist_ok=True)
    seal(layer)
    assert differences(layer) == []
    gone = sorted(tree.rglob("*"))[data.draw(st.integers(0, len(list(tree.rglob("*"))) - 1))]
    at_rest(gone.parent, lambda: shutil.rmtree(gone))
    name = str(gone.relative_to(tree))
    assert differences(layer) == [f"{name if name.isprintable() else repr(name)}: is missing"]
    durable.remove_tree(str(instance.root))


def test_a_damaged_listing_is_told_apart_from_a_damaged_tree(layer: Path) -> None:
    shutil.rmtree(layer / "tree")
    put(layer / "tree/x", b"x")
    seal(layer)
    path = layer / "listing"
    whole = path.read_bytes()
    damaged = [
        whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in (1, 32)
    ]
    damaged += [whole[:at] for at in range(len(whole))]
    damaged += [whole + b"\n", whole + whole, whole[:17] + whole[17:] * 2, b"[" * 5000]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ImageError) as refused:
            differences(layer)
        said = str(refused.value).removeprefix(f"{path}: ")
        # A flipped bit can make the number of the format another.
        if re.match(rb"vsprov listing [0-9]\n", content) and content[15:16] != b"1":
            assert said == "was written by another version of vsprov"
        else:
            assert said == "the listing is damaged; the layer itself may be intact"
    path.unlink()
    with pytest.raises(ImageError, match="listing: the listing of the layer is missing"):
        differences(layer)


def test_what_no_layer_may_hold_is_refused_and_no_listing_left(layer: Path) -> None:
    tree = layer / "tree"

    def refusal() -> str:
        with pytest.raises(ImageError) as refused:
            listing.write(str(tree), f"{layer}/listing", quiet)
        assert os.listdir(layer) == ["tree"]
        return str(refused.value).removeprefix(f"{tree}: ")

    (tree / "a").mkdir()
    os.mkfifo(tree / "a/fifo")
    assert refusal() == "'a/fifo': is a FIFO, which an image may not contain"
    os.rename(tree / "a/fifo", layer / "../fifo")
    os.mknod(tree / "a/null", stat.S_IFCHR, os.makedev(1, 3))
    assert refusal() == "'a/null': is a character device, which an image may not contain"
    os.unlink(tree / "a/null")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tree / "a/s"))
    assert refusal() == "'a/s': is a socket, which an image may not contain"


def test_progress_tells_bytes_and_may_end_the_work_with_nothing_left(layer: Path) -> None:
    told: list[tuple[str, int, int]] = []
    listing.write(f"{layer}/tree", f"{layer}/listing", lambda *words: told.append(words))
    total = listing.summary(f"{layer}/listing").bytes
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1] == ("list", total, 0)
    assert len(told) >= 3  # each MiB
    told.clear()
    listing_now = (layer / "listing").read_bytes()

    class Enough(Exception):
        pass

    def stop(what: str, done: int, whole: int) -> None:
        told.append((what, done, whole))
        if done > MIB:
            raise Enough

    with pytest.raises(Enough):
        listing.write(f"{layer}/tree", f"{layer}/listing", stop)
    assert (layer / "listing").read_bytes() == listing_now
    assert sorted(os.listdir(layer)) == ["listing", "tree"]
    with pytest.raises(Enough):
        verify(str(layer), stop)
    assert told[-1][0] == "verify"
    assert told[-1][2] == total
