"""Disk limits by project quota, which a state root on ext4 or xfs with prjquota has."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.features import requires
from tests.lab import Document, Lab, image, server
from vsprov.kernel import paths
from vsprov.kernel.storage import quota

pytestmark = pytest.mark.vm_subset
MI = 1 << 20


@pytest.fixture
def quotas(lab: Lab) -> Lab:
    """A lab whose state root has project quotas."""
    requires("project_quota")
    with paths.opened(lab.vsprov.folder) as fd:
        assert quota.is_enforced(fd)
    return lab


def limited(name: str = "a", **disk: Any) -> Document:
    return server(name, resources={"disk": {"space": "64Mi", **disk}}, init={"stopSignal": "KILL"})


def limits(lab: Lab, name: str = "a") -> quota.Quota:
    """What the kernel enforces for the project of a server."""
    with paths.opened(lab.directory(name) / "upper") as fd:
        return quota.get(fd, quota.project_of(fd))


def test_a_quota_limits_a_server_alone_and_changes_while_it_runs(quotas: Lab) -> None:
    """One test, because the emulated machine is slow."""
    documents = (image(), limited(), server("neighbor"))
    quotas.converge(*documents)
    assert quotas.shell("a", "df -m / | tail -1").split()[1] == "64"
    init = quotas.init("a")
    said = quotas.run("a", "dd", "if=/dev/zero", "of=/big", "bs=64k", check=False)
    assert said.returncode == 1 and "Disk quota exceeded" in said.stderr
    assert limits(quotas).used <= 64 * MI
    quotas.shell("neighbor", "dd if=/dev/zero of=/big bs=1M count=70 2>/dev/null; rm /big")

    said = quotas.refused(image(), limited(space="32Mi"), documents[2])
    assert "spec.resources.disk.space: 32Mi is less than what the server uses, 6" in said
    grown = limited(space="128Mi", inodes=500)
    assert quotas.differences(image(), grown, documents[2]) == {
        "Server/a /spec/resources/disk/space": (64 * MI, 128 * MI, "live"),
        "Server/a /spec/resources/disk/inodes": (None, 500, "live"),
    }
    quotas.converge(image(), grown, documents[2])
    assert quotas.shell("a", "df -m / | tail -1; rm /big").split()[1] == "128"
    made = quotas.shell("a", "mkdir /d; cd /d; seq 700 | xargs touch 2>/dev/null || ls /d | wc -l")
    assert 400 < int(made) < 500
    quotas.converge(image(), limited(space="16Mi"), documents[2])
    assert quotas.shell("a", "df -m / | tail -1").split()[1] == "16"
    assert quotas.init("a") == init

    quotas.vsprov("restart", "a")
    assert quotas.shell("a", "ls /d | head -1") == "1\n"
    quotas.converge(image(), server("a", init={"stopSignal": "KILL"}), documents[2])
    assert int(quotas.shell("a", "df -m / | tail -1").split()[1]) > 500


def test_a_quota_or_project_that_was_changed_by_hand_is_repaired_and_goes_with_the_server(
    quotas: Lab,
) -> None:
    documents = (image(), limited())
    quotas.converge(*documents)
    with paths.opened(quotas.directory("a") / "upper") as fd:
        project = quota.project_of(fd)
        quota.set_limits(fd, project, 999 * MI, 7000)
        assert quotas.differences(*documents) == {
            "Server/a /spec/resources/disk/space": (999 * MI, 64 * MI, "live"),
            "Server/a /spec/resources/disk/inodes": (7000, None, "live"),
        }
        quotas.converge(*documents)
        assert limits(quotas).space == 64 * MI and limits(quotas).inodes == 0
        quota.set_project(fd, 4242)
        quotas.converge(*documents)
        assert quota.project_of(fd) == project
    quotas.vsprov("destroy", "--all", "-y")
    with paths.opened(quotas.vsprov.folder) as fd:
        try:
            left = quota.get(fd, project)
        except OSError:
            return
        assert (left.space, left.inodes, left.used_inodes) == (0, 0, 0)


def test_its_root_cannot_leave_its_project(quotas: Lab) -> None:
    quotas.converge(image(), limited())
    attributes = struct.pack("5I8x", 0, 0, 0, 0, 0).hex()
    script = f"""
import fcntl, os
os.makedirs("/own", exist_ok=True)
for path in ("/", "/own"):
    try:
        fcntl.ioctl(os.open(path, os.O_RDONLY), 0x401C5820, bytes.fromhex("{attributes}"))
    except OSError as error:
        print(error.strerror)
"""
    quotas.run("a", "python3", "-c", script)
    for path in ("upper", "upper/own"):
        with paths.opened(quotas.directory("a") / path) as fd:
            assert quota.project_of(fd) == limits_project(quotas)


def limits_project(lab: Lab) -> int:
    with paths.opened(lab.directory("a") / "work") as fd:
        return quota.project_of(fd)


def test_files_move_into_a_project_and_out_of_it(quotas: Lab) -> None:
    free = server("a", init={"stopSignal": "KILL"})
    quotas.converge(image(), free)
    quotas.shell("a", "echo kept >/written; ln /written /linked; rm -r /srv")
    look = "cat /written; stat -c %h /linked; test ! -e /srv"
    quotas.converge(image(), limited())
    assert quotas.shell("a", look) == "kept\n2\n"
    assert limits(quotas).space == 64 * MI and limits(quotas).used_inodes > 3
    project = limits_project(quotas)
    quotas.converge(image(), limited(backend="image"))
    assert quotas.shell("a", look) == "kept\n2\n"
    with paths.opened(quotas.vsprov.folder) as fd:
        try:
            left = quota.get(fd, project)
        except OSError:
            return
        assert (left.space, left.used_inodes) == (0, 0)
