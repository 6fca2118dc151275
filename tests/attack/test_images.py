"""Images that mean harm, as a user would meet them: each is refused by one line that names the image and what
in it, or does no harm; nothing outside is touched, and nothing of it is left.

The case numbers are those of the catalogue of attacks; C19 and C23 to C25 are in test_entry.py.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import tarfile

import pytest

from tests.archives import folder, hard, link, member, packed
from tests.attack.trap import WAYS, Trap
from tests.lab import image
from tests.shop import busybox_layer

MIB = 1 << 20
Members = list[tuple[tarfile.TarInfo, bytes]]


# -- members of archives


HOSTILE = [
    ("C01", [member("../e", b"x")], "'../e' leads out of the archive"),
    ("C01", [member("/e", b"x")], "'/e' leads out of the archive"),
    ("C01", [member("a/../../../../etc/e", b"x")], "leads out of the archive"),
    ("C03", [hard("h", "../../../etc/hostname")], "'h': '../../../etc/hostname' leads out of the archive"),
    ("C03", [hard("h", "/etc/hostname")], "'h': '/etc/hostname' leads out of the archive"),
    ("C03", [link("d", "/etc"), hard("h", "d/shadow")], "'h': No such file or directory"),
    ("C07", [member("x", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/../.."})],
     "'x': trusted.overlay.redirect: belongs to the upper layer of an overlay"),
    ("C10", [member("/".join(["d"] * 3000))], "lies too deep"),
    ("C10", [member("/".join(["d" * 250] * 20))], "lies too deep"),
]  # fmt: skip
INSIDE = [
    each for each in HOSTILE if "'/e" in each[2]
]  # layers may have such names: they are the image's own


@pytest.mark.parametrize("way", WAYS)
def test_each_hostile_member_is_named_with_its_image(trap: Trap, way: str) -> None:
    """C01, C03, C07, C10: by one apply of an image for each."""
    cases = [each for each in HOSTILE if way == "tar" or each not in INSIDE]
    images = {
        f"{case.lower()}-{number}": trap.source(way, packed(member("first", b"harmless"), *members))
        for number, (case, members, _) in enumerate(cases)
    }
    done = trap.lab.apply(*(image(name, **source) for name, source in images.items()), check=False)
    assert done.returncode == 1 and done.stderr.replace("\n", "").isprintable()
    lines = [line for line in done.stderr.splitlines() if not line.startswith("  hint: ")]
    for name, (_, _, said) in zip(images, cases, strict=True):
        (line,) = [line for line in lines if line.startswith(f"vsprov: Image/{name}: ")]
        assert said in line
    assert len(lines) == len(cases) + 1  # the last one counts them
    trap.nothing_left()


@pytest.mark.parametrize("way", WAYS)
def test_c04_c18_no_device_and_no_fifo_of_an_archive_is_made(trap: Trap, way: str) -> None:
    members = [
        member("sda", type=tarfile.BLKTYPE, devmajor=8),
        member("mem", type=tarfile.CHRTYPE, devmajor=1, devminor=1),
        member("dev/mem", type=tarfile.CHRTYPE, devmajor=1, devminor=1),
        member("pipe", type=tarfile.FIFOTYPE),
        member("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        member("etc/passwd", type=tarfile.FIFOTYPE),
        member("etc/group", type=tarfile.CHRTYPE),
    ]
    odd = packed(*members)
    archives = (_joined(busybox_layer(), odd),) if way == "tar" else (busybox_layer(), odd)
    said = trap.lab.apply(image("odd", **trap.source(way, *archives))).stderr
    assert (
        "Image/odd: left out, because images keep no devices, FIFOs and sockets: 'sda' (a block device), "
        "'mem' (a character device), 'pipe' (a FIFO), 'etc/passwd' (a FIFO) and 'etc/group' (a character "
        "device)\n"
    ) in said
    tops = list((trap.lab.vsprov.root / "layers").glob("*/tree"))
    made = [(str(path.relative_to(top)), path.lstat()) for top in tops for path in top.rglob("*")]
    known = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK)
    special = {name: each.st_rdev for name, each in made if stat.S_IFMT(each.st_mode) not in known}
    assert special == ({} if way == "tar" else {"etc/passwd": 0, "etc/group": 0})  # whiteouts


@pytest.mark.parametrize("way", ["layout", "saved", "registry"])
def test_c01_absolute_names_in_layers_mean_the_root_of_the_image(trap: Trap, way: str) -> None:
    name = f"{trap.outside}/e"
    odd = packed(member("to", b"x"), member(name, b"inside"), hard(f"{trap.outside}/h", "/to"))
    root = trap.runs(trap.source(way, busybox_layer(), odd))
    assert (root / name.lstrip("/")).read_bytes() == b"inside"
    assert (root / str(trap.outside).lstrip("/") / "h").samefile(root / "to")


@pytest.mark.parametrize("way", WAYS)
def test_c02_what_is_written_through_a_link_stays_in_the_image(trap: Trap, way: str) -> None:
    outside = str(trap.outside)
    base = busybox_layer()
    hostile = packed(
        folder(outside.lstrip("/")), link("d", outside), member("d/e", b"inside"),
        link("up", "../../../../../.." + outside), member("up/f", b"inside"),
    )  # fmt: skip
    source = trap.source(way, *((base, hostile) if way != "tar" else (_joined(base, hostile),)))
    root = trap.runs(source)
    assert (root / outside.lstrip("/") / "e").read_bytes() == b"inside"
    assert (root / outside.lstrip("/") / "f").read_bytes() == b"inside"


def _joined(*archives: bytes) -> bytes:
    """One archive of the members of several."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for one in archives:
            with tarfile.open(fileobj=io.BytesIO(one)) as given:
                for info in given:
                    tar.addfile(info, given.extractfile(info) if info.isreg() else None)
    return out.getvalue()


def test_c05_nobody_but_root_gets_to_a_setuid_program_of_an_image(trap: Trap) -> None:
    setuid = packed(member("bin/mine", b"#!/bin/sh\n", mode=0o4755))
    trap.runs(trap.source("layout", busybox_layer(), setuid))
    found = [path for path in (trap.lab.vsprov.root / "layers").glob("*/tree/bin/mine")]
    assert [path.stat().st_mode & 0o7777 for path in found] == [0o4755]
    for path in (trap.lab.vsprov.root, found[0], trap.lab.directory("odd"), trap.lab.vsprov.run / "lock"):
        done = subprocess.run(
            ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "cat", str(path)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1 and "Permission denied" in done.stderr, path


def test_c06_whiteouts_of_a_layer_delete_and_are_never_seen(trap: Trap) -> None:
    lower = packed(member("gone/a", b""), member("opaque/b", b""), member("kept", b""))
    upper = packed(
        member(".wh.gone"), folder("opaque"), member("opaque/.wh..wh..opq"), member("opaque/c", b"")
    )
    odd = packed(member(".wh.nothing-here"), member(".wh..wh.plnk"), member(".wh..wh.aufs"))
    root = trap.runs(trap.source("layout", busybox_layer(), lower, upper, odd))
    names = [name for _, folders, files in os.walk(root, onerror=None) for name in (*folders, *files)]
    assert [name for name in names if name.startswith(".wh.")] == []
    assert not (root / "gone").exists() and (root / "kept").exists()
    assert os.listdir(root / "opaque") == ["c"]


@pytest.mark.parametrize("name", [".wh.etc", "etc/.wh..wh..opq", ".wh..", ".wh.", ".wh..wh..opq/x"])
def test_c06_whiteouts_in_an_archive_that_is_no_layer_are_refused(trap: Trap, name: str) -> None:
    assert "whiteout" in trap.refused(trap.source("tar", packed(folder("etc"), member(name))))


@pytest.mark.parametrize("name", [".wh..", ".wh...", ".wh."])
def test_c06_a_whiteout_of_the_folder_itself_or_of_the_one_above_is_refused(trap: Trap, name: str) -> None:
    source = trap.source("layout", packed(member("d/x", b"")), packed(member(f"d/{name}")))
    assert name in trap.refused(source)


def test_c07_attributes_that_mean_something_to_the_host_are_left_out(trap: Trap) -> None:
    names = ("trusted.vsprov.owner", "trusted.x", "security.ima", "system.nfs4_acl", "user.note")
    headers = {f"SCHILY.xattr.{name}": "x" for name in names}
    trap.runs(trap.source("layout", busybox_layer(), packed(member("x", b"", pax_headers=headers))))
    (tree,) = (trap.lab.vsprov.root / "layers").glob("*/tree/x")
    assert [name for name in os.listxattr(tree) if name != "security.selinux"] == ["user.note"]


# -- too much


def test_c08_a_bomb_stops_at_what_the_image_may_hold(trap: Trap) -> None:
    """10 GiB of zeros in 10 MiB."""
    info, _ = member("zeros")
    info.size = 10 << 30
    bomb = gzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + gzip.compress(bytes(16 * MIB)) * 640
    said = trap.refused(trap.source("tar", bomb), limits={"size": "64Mi"})
    assert f"'zeros': makes the image larger than {64 * MIB} bytes" in said
    endless = gzip.compress(packed(member("x", b""))) + gzip.compress(bytes(16 * MIB)) * 640
    said = trap.refused(trap.source("tar", endless), limits={"size": "64Mi"})
    assert f"it decompresses to more than {64 * MIB} bytes" in said


@pytest.mark.parametrize("way", WAYS)
def test_c09_an_image_of_too_many_files_stops_at_what_it_may_hold(trap: Trap, way: str) -> None:
    many = packed(*(member(f"f{number}") for number in range(300)))
    assert "more than 200 files" in trap.refused(trap.source(way, many), limits={"files": 200})


def test_c09_files_are_counted_over_all_layers(trap: Trap) -> None:
    """Each layer is below the limit, and the image is not."""
    layers = [packed(*(member(f"{part}-{number}") for number in range(150))) for part in "abc"]
    assert "at most 200 are allowed" in trap.refused(trap.source("layout", *layers), limits={"files": 200})
