"""A server gets its first limit, another backend, other inodes or no limit any more: its files move along."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.lab import Document, Lab, image, server

MI = 1 << 20
# Files of all sorts that a copy could lose: links, holes, owners, modes, whiteouts, replaced directories.
FILL = """
echo kept >/written; ln /written /linked; mkdir -p /own/deep; chown 1000:1000 /own; chmod 2770 /own
truncate -s 4M /sparse; ln -s /written /link; mkfifo /fifo; rm -r /srv /home; mkdir /home; echo x >/home/x
"""
LOOK = """
cat /written /linked; stat -c '%n %u:%g %a %Y' /own /own/deep; readlink /link
stat -c '%n %u:%g %a %h %s %Y' /written /sparse /fifo /home/x; test $(stat -c %b /sparse) = 0
test ! -e /srv; ls /home
"""


def limited(*, free: bool = False, **disk: Any) -> Document:
    more = {} if free else {"resources": {"disk": {"space": "64Mi", **disk}}}
    return server("a", init={"stopSignal": "KILL"}, **more)


def disks(lab: Lab) -> set[str]:
    """What the directory of the server has besides what all have."""
    return {"disk", "disk.img"} & set(os.listdir(lab.directory("a")))


def only_in(lab: Lab, where: Path) -> None:
    """The files are there and nowhere else, and no former disk is left."""
    assert os.listdir(lab.vsprov.root / "servers") == ["a"]
    for folder in (lab.directory("a"), lab.directory("a") / "disk"):
        upper = folder / "upper"
        assert not upper.exists() or bool(os.listdir(upper)) == (upper == where / "upper")


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
def test_a_first_limit_other_inodes_and_none_any_more_cost_a_restart_and_no_file(lab: Lab) -> None:
    lab.converge(image(), limited(free=True))
    lab.shell("a", FILL)
    before = lab.shell("a", LOOK)
    img = {"backend": "image"}
    changes = (
        (limited(**img), {"space": (None, 64 * MI, "restart")}, {"disk.img"}),
        (limited(**img, inodes=3000), {"inodes": (None, 3000, "restart")}, {"disk.img"}),
        (
            limited(**img | {"inodes": 5000, "space": "32Mi"}),
            {"inodes": (3000, 5000, "restart"), "space": (64 * MI, 32 * MI, "restart")},
            {"disk.img"},
        ),
        (limited(free=True), {"space": (32 * MI, None, "restart")}, set()),
    )
    for document, differences, found in changes:
        init = lab.init("a")
        expected = {f"Server/a /spec/resources/disk/{key}": value for key, value in differences.items()}
        assert lab.differences(image(), document) == expected
        said = lab.converge(image(), document).stdout
        assert "restart needed: the files of the server are moved to a new disk" in said
        assert lab.init("a") != init and lab.shell("a", LOOK) == before
        assert disks(lab) == found
        only_in(lab, lab.directory("a") if not found else Path("/nowhere"))
    lab.wait_until(lambda: not leaks.loops(lab.vsprov.folder))


def test_between_all_backends_of_btrfs_no_file_is_lost(quota_lab: Lab) -> None:
    lab = quota_lab
    lab.converge(image(), limited(free=True))
    lab.shell("a", FILL)
    before = lab.shell("a", LOOK)
    image_, group = limited(backend="image"), limited(backend="qgroup")
    for document, found in (
        (group, {"disk"}),
        (image_, {"disk.img"}),
        (group, {"disk"}),
        (image_, {"disk.img"}),
        (limited(free=True), set()),
        (image_, {"disk.img"}),
    ):
        lab.converge(image(), document)
        assert lab.shell("a", LOOK) == before and disks(lab) == found
        place = lab.directory("a") / "disk" if found == {"disk"} else lab.directory("a")
        only_in(lab, place if found != {"disk.img"} else Path("/nowhere"))


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
def test_a_limit_below_what_the_server_has_written_is_refused_with_the_figure(lab: Lab) -> None:
    lab.converge(image(), limited(free=True))
    lab.shell("a", "dd if=/dev/urandom of=/data bs=1M count=40 2>/dev/null; sync")
    init = lab.init("a")
    said = lab.refused(image(), limited(space="32Mi", backend="image"))
    assert "spec.resources.disk.space: 32Mi is less than what the server uses, 40.0Mi" in said
    assert lab.init("a") == init


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
def test_a_disk_that_turns_out_too_small_leaves_the_server_as_it_was(lab: Lab) -> None:
    lab.converge(image(), limited(free=True))
    lab.shell("a", "dd if=/dev/urandom of=/data bs=1M count=40 2>/dev/null; sync")
    said = lab.refused(image(), limited(space="41Mi", backend="image"))
    assert "No space left on device" in said and "hint: choose a higher limit" in said
    assert "started again as it was before" in said
    assert lab.shell("a", "stat -c %s /data") == f"{40 * MI}\n" and disks(lab) == set()
    assert lab.is_settled(image(), limited(free=True))
    only_in(lab, lab.directory("a"))


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
def test_a_server_that_cannot_start_with_its_new_disk_gets_its_former_one_back(lab: Lab) -> None:
    lab.converge(image(), limited(free=True))
    lab.shell("a", FILL)
    before = lab.shell("a", LOOK)
    document = limited(backend="image")
    document["spec"]["init"]["command"] = ["/missing"]
    said = lab.refused(image(), document)
    assert "started again as it was before" in said
    assert lab.shell("a", LOOK) == before and disks(lab) == set()
    only_in(lab, lab.directory("a"))
    assert lab.is_settled(image(), limited(free=True))


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
def test_a_stopped_server_moves_without_being_started(lab: Lab) -> None:
    lab.converge(image(), limited(free=True))
    lab.shell("a", FILL)
    before = lab.shell("a", LOOK)
    stopped = limited(backend="image")
    stopped["spec"]["state"] = "Stopped"
    lab.converge(image(), stopped)
    assert disks(lab) == {"disk.img"} and lab.running("a") is None
    lab.vsprov("start", "a")
    assert lab.shell("a", LOOK) == before


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
@pytest.mark.parametrize("limit", [{}, {"inodes": 3000}])
def test_a_server_with_more_inodes_than_its_new_disk_would_have_goes_on(lab: Lab, limit: Any) -> None:
    now = limited(backend="image", **limit) if limit else limited(free=True)
    lab.converge(image(), now)
    lab.shell("a", "mkdir /many; cd /many; for i in $(seq 60); do echo >$i; done; sync")
    init = lab.init("a")
    said = lab.refused(image(), limited(backend="image", inodes=50))
    assert re.search(r"Server/a: spec.resources.disk.inodes: 50 is less than what the server", said)
    assert said.count("50 is less than") == 1 and lab.init("a") == init
    lab.shell("a", "cd /many; rm 1? 2? 3? 4?; sync")  # 20 are left, and the inodes of ext4 do not count
    lab.converge(image(), limited(backend="image", inodes=50))
    lab.converge(image(), limited(backend="image", inodes=35))
    assert lab.shell("a", "ls /many | wc -l") == "20\n"
