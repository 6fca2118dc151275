"""Layers: each unpacked alone or over those below, the whole stack the same as what other programs make."""

from __future__ import annotations

import gzip
import os
import random
import stat
import tarfile
from pathlib import Path

import pytest

from tests.archives import NET_RAW, archive, folder, hard, link, member, packed
from tests.kernel.stacks import Box, as_umoci, overlaid, same
from tests.trees import listing
from vsprov.errors import ImageError
from vsprov.store.layers.unpacking import NeedsBelow, unpack

Layer = list[tuple[tarfile.TarInfo, bytes]]

CAPABLE = {"SCHILY.xattr.security.capability": NET_RAW.decode("utf-8", "surrogateescape")}
NOTED = {"SCHILY.xattr.user.note": "below"}
BASE: Layer = [
    folder("./", mode=0o751, uid=3, gid=4, mtime=100),
    folder("etc", mtime=200), member("etc/a", b"a", mtime=1), member("etc/b", b"b", mtime=2),
    folder("usr", mtime=300), folder("usr/lib", mtime=400, pax_headers=NOTED), member("usr/lib/x", b"x"),
    link("lib", "usr/lib", mtime=5), link("loop", "/lib"), folder("opt"), folder("opt/d", mtime=6),
    member("opt/d/one", b"1"), member("opt/d/two", b"2"), folder("opt/d/e"), member("opt/d/e/three", b"3"),
    member("ping", b"ping", uid=12, gid=34, mode=0o755, mtime=7, pax_headers=CAPABLE),
    member("su", b"su", mode=0o4755), folder("tmp", mode=0o1777), folder("log", mode=0o2755, gid=8),
]  # fmt: skip
UPPER: dict[str, Layer] = {
    "a file is deleted": [member("etc/.wh.a")],
    "a directory is deleted": [member("opt/.wh.d")],
    "a directory is deleted and made anew": [member("opt/.wh.d"), folder("opt/d"), member("opt/d/new", b"n")],
    "made anew before it is deleted": [
        folder("opt/d", mtime=9), member("opt/d/new", b"n"), member("opt/.wh.d")
    ],
    "a directory is emptied": [member("opt/d/.wh..wh..opq")],
    "emptied after something was put in": [member("opt/d/e/new", b"n"), member("opt/d/.wh..wh..opq")],
    "emptied before something is put in": [member("opt/d/.wh..wh..opq"), member("opt/d/e/new", b"n")],
    "the root is emptied": [member("new", b"n"), member(".wh..wh..opq")],
    "what is not there is deleted": [member("no/such/.wh.file"), member(".wh.nothing"), member("su/.wh.x")],
    "what this layer made is not deleted": [member("etc/a", b"new"), member("etc/.wh.a")],
    "deletions go through links": [member("lib/.wh.x"), member("loop/y", b"y")],
    "a file is put where a link leads": [member("lib/y", b"y", mtime=8)],
    "a directory replaces a link": [folder("lib"), member("lib/y", b"y")],
    "a directory replaces a link late": [member("lib/y", b"y"), folder("lib")],
    "a directory replaces a file": [folder("ping"), member("ping/x", b"x")],
    "a file replaces a directory": [member("opt", b"file")],
    "a directory comes after a file": [member("opt", b"file"), folder("opt"), member("opt/x", b"x")],
    "a link replaces a directory": [link("opt", "usr"), member("opt/y", b"y")],
    "a directory of below changes": [folder("usr/lib", mode=0o700, uid=9, mtime=11)],
    "the root changes": [folder("./", mode=0o700, mtime=12)],
    "a link to a file of below": [hard("ping6", "ping"), hard("etc/ping", "./ping")],
    "a link to a link of below": [hard("lib2", "lib")],
    "a link through a link": [hard("z", "lib/x")],
    "files of below stay in a changed directory": [member("etc/c", b"c", mtime=13)],
    "a setgid directory of below": [member("log/file"), folder("log/d"), link("log/l", "x")],
    "names with a slash": [member("/etc/c", b"c"), hard("/etc/d", "/etc/c")],
    "what AUFS kept": [member(".wh..wh.plnk"), member(".wh..wh.aufs")],
}  # fmt: skip

ON_OLDER_KERNELS = {  # one for each thing that an overlay writes down
    "a file is deleted",
    "a directory is deleted and made anew",
    "emptied after something was put in",
    "a file is put where a link leads",
    "a directory replaces a link late",
    "a link to a file of below",
}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def only_the_overlays_own(tree: Path) -> None:
    """Fail if a layer holds more of an overlay's notes than it needs."""
    for where, folders, files in os.walk(tree):
        for name in (".", *folders, *files):
            path = os.path.join(where, name)
            found = [each for each in os.listxattr(path, follow_symlinks=False) if "overlay" in each]
            assert found in ([], ["trusted.overlay.opaque"]), path
            status = os.lstat(path)
            assert not stat.S_ISCHR(status.st_mode) or status.st_rdev == 0


@pytest.mark.requires("overlay", "umoci")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.vm_subset if name in ON_OLDER_KERNELS else ()) for name in UPPER],
)
def test_a_layer_over_others_is_what_umoci_makes_of_it(box: Box, name: str) -> None:
    layers = [packed(*BASE), packed(*UPPER[name]), packed(member("etc/last", b"l"))]
    trees = box.stack(layers)
    for tree in trees:
        only_the_overlays_own(tree)
    with overlaid(trees, box.folder / "merged") as merged:
        same(listing(merged), as_umoci(box.folder, layers))


LISTS = {
    "SCHILY.acl.access": "user::rwx\nuser:app:rwx\ngroup::r-x\nmask::rwx\nother::---\n",
    "SCHILY.acl.default": "user::rwx,user:app:rwx:7,group::r-x,mask::rwx,other::---",
}


def test_what_is_made_in_a_folder_with_a_default_list_has_its_own_lists_only(box: Box) -> None:
    """Of this archive or of a layer below; the kernel would let it inherit, acl(5)."""
    below = [member("etc/passwd", b"app:x:7:7\n"), folder("d", pax_headers=LISTS), member("d/file")]
    above = [
        member("d/new", mode=0o640), member("d/made/file"), folder("d/folder", mode=0o750),
        member("d/own", mode=0o640, pax_headers={"SCHILY.acl.access": LISTS["SCHILY.acl.access"]}),
    ]  # fmt: skip
    trees = box.stack([packed(*below), packed(*above), packed(folder("d"))])
    for number, names in ((0, {"d": 2}), (1, {"d": 2, "d/own": 1}), (2, {"d": 0})):
        found = listing(trees[number])
        lists = {name: sum("acl" in each for each in seen.attributes) for name, seen in found.items()}
        assert {name: count for name, count in lists.items() if count or name in names} == names
    found = listing(trees[1])
    assert [found[name].mode & 0o777 for name in ("d/new", "d/made", "d/folder", "d/own")] == [
        0o640, 0o755, 0o750, 0o770,
    ]  # fmt: skip


def test_a_default_list_without_names_is_inherited_by_nothing_either(box: Box) -> None:
    plain = {"SCHILY.acl.default": "user::rwx,group::---,other::---"}
    trees = box.stack([packed(folder("d", pax_headers=plain)), packed(member("d/f"), folder("d/g"))])
    found = listing(trees[1])
    seen = {name: (each.mode & 0o777, len(each.attributes)) for name, each in found.items() if name != "."}
    assert seen == {
        "d": (0o755, 1), "d/f": (0o644, 0), "d/g": (0o755, 0),
    }  # fmt: skip


def test_names_in_lists_of_a_layer_may_be_explained_by_a_layer_below(box: Box) -> None:
    named = archive(box.folder / "named.tar", folder("d", pax_headers=LISTS))
    with pytest.raises(NeedsBelow):
        box.opened(named, below=None)
    trees = box.stack([packed(member("etc/passwd", b"app:x:9:9\n")), named.read_bytes()])
    access = os.getxattr(trees[1] / "d", "system.posix_acl_access")
    assert access[12:20] == b"\x02\0\x07\0\x09\0\0\0"  # ACL_USER, rwx, 9


def test_a_device_or_a_fifo_hides_what_is_below_it_in_the_place_of_which_it_is(box: Box) -> None:
    fifo = member("opt/d", type=tarfile.FIFOTYPE)
    layers = [
        [*BASE, folder("dev"), member("dev/kept")],
        [fifo, member("dev/kept", type=tarfile.FIFOTYPE), member("no/such/place", type=tarfile.CHRTYPE)],
        [member("etc/last"), member("etc/last", type=tarfile.BLKTYPE), member("etc/.wh.last")],
    ]
    trees = box.stack([packed(*layer) for layer in layers])
    for tree in trees:
        only_the_overlays_own(tree)
    with overlaid(trees, box.folder / "merged") as merged:
        found = listing(merged)
        assert {"opt", "etc/a", "dev/kept"} <= found.keys()
        assert not {"opt/d", "opt/d/one", "no", "etc/last"} & found.keys()
        assert found["opt"].modified == found["dev"].modified == 0
    with pytest.raises(NeedsBelow):
        box.opened(archive(box.folder / "alone.tar", fifo), below=None)


def chance(seed: int) -> list[Layer]:
    """A stack of layers that change the same few names again and again."""
    dice = random.Random(seed)

    def path() -> str:
        return "/".join(dice.choice("abc") for _ in range(dice.randint(1, 3)))

    def looks() -> dict[str, object]:
        mode = dice.choice([0o755, 0o644, 0o4755, 0o2755, 0o700])
        return {
            "uid": dice.choice([0, 7, 65535]),
            "gid": dice.choice([0, 8]),
            "mode": mode,
            "mtime": dice.randint(1, 10**9),
        }

    layers: list[Layer] = []
    for number in range(dice.randint(2, 5)):
        layer: Layer = [folder("./", **looks())] if dice.random() < 0.5 else []
        for _ in range(dice.randint(1, 8)):
            name, kind = path(), dice.random()
            above, _, last = name.rpartition("/")
            if kind < 0.25:
                layer.append(folder(name, **looks()))
            elif kind < 0.55:
                layer.append(member(name, dice.randbytes(3), **looks()))
            elif kind < 0.7:
                layer.append(link(name, dice.choice([path(), f"/{path()}", f"../{path()}", "..", "."])))
            elif number:
                layer.append(member(f"{above}/.wh.{last}" if kind < 0.9 else f"{name}/.wh..wh..opq"))
        layers.append(layer)
    return layers


@pytest.mark.requires("overlay", "umoci")
@pytest.mark.parametrize("seed", range(25))
def test_any_stack_of_layers_is_what_umoci_makes_of_it(box: Box, seed: int) -> None:
    layers = [packed(*layer) for layer in chance(seed)]
    try:
        trees = box.stack(layers)
    except ImageError:
        with pytest.raises(AssertionError):
            as_umoci(box.folder, layers)
        return
    with overlaid(trees, box.folder / "merged") as merged:
        ours = listing(merged)
    theirs = as_umoci(box.folder, layers)
    for name, found in ours.items():
        if found.modified == 0:  # in no layer: umoci lets it inherit the group
            theirs[name] = theirs[name]._replace(mode=found.mode, owner=found.owner, modified=0)
    same(ours, theirs)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        ([member("etc/.wh.a")], "'etc/.wh.a' is a whiteout"),
        ([member("etc/.wh..wh..opq")], "'etc/.wh..wh..opq' is a whiteout"),
        ([member("etc/a")], "'etc' is not in it"),
        ([folder("etc"), member("etc/ssl/a")], "'etc/ssl' is not in it"),
        ([link("etc", "config"), member("etc/a")], "'config' is not in it"),
        ([link("etc", "x/../config"), folder("config"), member("etc/a")], "'x' is not in it"),
        ([hard("a", "b")], "'b', which 'a' is a link to, is not in it"),
        ([hard("a", "a")], "'a', which 'a' is a link to, is not in it"),
        ([hard("a", "etc/b")], "'etc' is not in it"),
        ([member("opt"), folder("opt")], "'opt' becomes a directory after it was something else"),
    ],
)  # fmt: skip
def test_a_layer_that_refers_to_what_is_below_says_so_when_that_is_not_known(
    box: Box, layer: Layer, why: str
) -> None:
    path = archive(box.folder / "layer.tar", *layer)
    with pytest.raises(NeedsBelow) as needs:
        box.opened(path, below=None)
    assert str(needs.value) == f"layer.tar: {why}"


def test_a_layer_that_refers_to_nothing_below_is_the_same_alone_and_over_others(box: Box) -> None:
    layer = [
        folder("./"),
        folder("etc", mtime=3),
        member("etc/a", b"a"),
        link("l", "etc"),
        hard("l/b", "etc/a"),
    ]
    base = box.unpacked(*BASE, below=())
    alone, over = box.unpacked(*layer, below=None), box.unpacked(*layer, below=[base])
    assert listing(alone) == listing(over)


def test_with_nothing_below_whiteouts_have_no_effect_and_missing_files_are_refused(box: Box) -> None:
    tree = box.unpacked(folder("d"), member("d/a", b"a"), member("d/.wh.a"), member(".wh..wh..opq"), below=())
    assert (tree / "d/a").read_bytes() == b"a"
    assert os.listdir(tree / "d") == ["a"]
    said = box.refusal(packed(hard("a", "b")), below=())
    assert said == "image.tar: unpack: 'a': No such file or directory"


@pytest.mark.parametrize("name", [".wh.", ".wh..", "d/.wh...", ".wh.d/file"])
def test_whiteouts_of_no_name_are_refused(box: Box, name: str) -> None:
    base = box.unpacked(folder("d"), below=())
    for below in ([], [base]):
        assert "is a whiteout" in box.refusal(packed(member(name)), below=below)


@pytest.mark.vm_subset
@pytest.mark.requires("overlay")
def test_a_layer_goes_on_top_of_hundreds(box: Box) -> None:
    trees = []
    for number in range(300):
        tree = box.folder / f"l{number}"
        tree.mkdir()
        (tree / f"f{number}").write_text(str(number))
        trees.append(tree)
    gone = [member(f".wh.f{number}") for number in range(0, 300, 2)]
    top = box.unpacked(*gone, hard("again", "f1"), below=trees[::-1])
    kept = {f"f{number}" for number in range(1, 300, 2)} | {"again"}
    with overlaid([*trees, top], box.folder / "merged") as merged:
        assert set(os.listdir(merged)) == kept
        assert (merged / "again").read_text() == "1"
    assert (trees[0] / "f0").read_text() == "0"


def test_layers_below_may_have_any_name(box: Box) -> None:
    below = box.folder / "a:b,c\\d=\udcff"
    below.mkdir()
    (below / "gone").touch()
    top = box.unpacked(member(".wh.gone"), below=[below])
    assert stat.S_ISCHR(os.lstat(top / "gone").st_mode)


def test_nothing_is_written_to_the_layers_below(box: Box) -> None:
    base = box.unpacked(*BASE, below=())
    before = listing(base)
    for name in ON_OLDER_KERNELS:
        box.unpacked(*UPPER[name], below=[base])
    assert listing(base) == before


def test_docker_archives_with_gzipped_layers_keep_their_digests(box: Box) -> None:
    data = packed(*BASE)
    path = box.folder / "layer"
    path.write_bytes(gzip.compress(data))
    found = box.opened(path, below=None)[1]
    path.write_bytes(data)
    plain = box.opened(path, below=None)[1]
    assert found.sha256 != plain.sha256
    assert found.diff_id == plain.diff_id == plain.sha256


def test_what_no_overlay_can_be_made_of_is_told_with_a_hint(box: Box) -> None:
    base = box.unpacked(*BASE, below=())
    path = archive(box.folder / "layer.tar", member("etc/a"))
    (box.folder / "target").mkdir()
    with open(path, "rb") as file, pytest.raises(ImageError) as refused:  # sysfs is another file system
        unpack(
            file.fileno(), str(box.folder / "target"), below=[str(base)], work="/sys/kernel",
            progress=lambda *_: None, label="layer.tar",
        )  # fmt: skip
    said = "layer.tar: unpack over layers: mount an overlay of 2: Invalid argument"
    assert (str(refused.value), "file system" in refused.value.hint) == (said, True)


@pytest.mark.parametrize("length", [512 + 3, 1024], ids=["without padding", "without end"])
def test_a_layer_may_end_with_its_last_member_but_not_in_it(box: Box, length: int) -> None:
    path = box.folder / "layer.tar"
    data = packed(member("a", b"abc"))
    path.write_bytes(data[:length])
    tree, _ = box.opened(path, below=())
    assert (tree / "a").read_bytes() == b"abc"
    path.write_bytes(data[:514])
    with pytest.raises(ImageError, match="'a': the archive is truncated in the middle of this file"):
        box.opened(path, below=())
