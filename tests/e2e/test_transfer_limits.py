"""export and import of servers and volumes whose disk is limited."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.verbs import HOST
from tests.lab import Lab, mounted, server, volume


def test_a_stopped_server_and_one_of_another_name_keep_their_disk_limits(
    lab: Lab, other: Lab, tmp_path: Path
) -> None:
    resources = {"disk": {"space": "16Mi", "backend": "image"}}
    lab.apply(HOST, server("web1", resources=resources))
    lab.shell(
        "web1",
        "echo one > /srv/file; head -c 3000000 /dev/urandom > /srv/big; sha256sum < /srv/big > /srv/sum",
    )
    lab.vsprov("stop", "web1")
    lab.vsprov("export", "web1", tmp_path / "web1")
    other.vsprov("import", tmp_path / "web1")
    assert (other.directory("web1") / "disk.img").exists()
    other.vsprov("start", "web1")
    assert (
        other.shell("web1", "cat /srv/file; sha256sum < /srv/big | cmp - /srv/sum && echo same")
        == "one\nsame\n"
    )
    assert int(other.shell("web1", "stat -f -c %b%S /srv | wc -c")) > 0
    assert "No space" in other.vsprov(
        "exec", "web1", "--", "sh", "-c", "head -c 20000000 /dev/zero > /srv/more", check=False
    ).stderr  # fmt: skip


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
def test_a_limited_volume_keeps_its_limit(lab: Lab, other: Lab, tmp_path: Path) -> None:
    data = volume("data", size="16Mi", backend="image", mode="0700")
    lab.apply(HOST, data, server("web1", mounts=[mounted("data")]))
    lab.shell("web1", "echo one > /data/file; chown 1000:1001 /data/file")
    lab.vsprov("export", "web1", tmp_path / "web1")
    other.vsprov("import", tmp_path / "web1")
    other.vsprov("start", "web1")
    assert other.shell("web1", "cat /data/file; stat -c %u:%g:%a /data/file /data") == (
        "one\n1000:1001:644\n0:0:700\n"
    )
    done = other.run("web1", "sh", "-c", "head -c 20000000 /dev/zero > /data/more", check=False)
    assert "No space left on device" in done.stderr
    assert other.is_settled(HOST, data, server("web1", mounts=[mounted("data")]))


@pytest.mark.vm_subset
@pytest.mark.requires("project_quota")
def test_limits_by_quota_are_set_for_what_is_imported(lab: Lab, other: Lab, tmp_path: Path) -> None:
    disk = {"disk": {"space": "16Mi", "backend": "project"}}
    data = volume("data", size="16Mi", backend="project")
    manifest = (HOST, data, server("web1", resources=disk, mounts=[mounted("data")]))
    lab.apply(*manifest)
    lab.shell("web1", "head -c 3000000 /dev/urandom > /srv/file; head -c 2000000 /dev/urandom > /data/file")
    lab.vsprov("snapshot", "create", "web1", "first")
    lab.vsprov("export", "web1", "--snapshots", tmp_path / "web1")
    other.vsprov("import", tmp_path / "web1")
    other.vsprov("start", "web1")
    assert other.shell("web1", "stat -c %s /srv/file /data/file") == "3000000\n2000000\n"
    for target in ("/srv/more", "/data/more"):
        done = other.run("web1", "dd", "if=/dev/zero", f"of={target}", "bs=64k", check=False)
        assert "Disk quota exceeded" in done.stderr or "No space left" in done.stderr, target
        assert 4_000_000 < int(other.shell("web1", f"stat -c %s {target}")) < 15_000_000
    assert other.is_settled(*manifest)
