"""Volumes with hostile contents, and hostile servers that share one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import archives, leaks
from tests.lab import Document, Lab, image, mounted, server, volume
from vsprov.model.values.names import CAPABILITIES

STRONG = {"capabilities": {"add": list(CAPABILITIES)}, "noNewPrivileges": False}
LOADED = {"capabilities": {"add": ["SYS_ADMIN"]}}


def data(lab: Lab, name: str = "data") -> Path:
    return lab.vsprov.root / "volumes" / name / "data"


def using(name: str, *mounts: Document, **spec: object) -> Document:
    return server(name, mounts=list(mounts), **spec)


def test_an_archive_that_leads_outside_or_has_devices_writes_only_into_the_volume(
    lab: Lab, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    packed = tmp_path / "hostile.tar"
    packed.write_bytes(
        archives.packed(
            archives.link("out", str(victim)),
            archives.member("out/written", b"outside"),
            archives.member("../above", b"outside"),
            archives.member("disk", type=tarfile.BLKTYPE, devmajor=254, devminor=0),
        )
    )
    done = lab.apply(volume("data", source={"tar": {"path": str(packed)}}), check=False)
    assert os.listdir(victim) == [] and not (lab.vsprov.root / "volumes" / "above").exists()
    assert not (data(lab).parent / "above").exists()
    if done.returncode == 0:  # what leads upwards may also be refused as a whole
        assert (data(lab) / str(victim).lstrip("/") / "written").read_bytes() == b"outside"
        assert not (data(lab) / "disk").exists()
    else:
        assert not data(lab).parent.exists()


def test_a_setuid_program_and_a_device_in_a_volume_have_no_effect_in_another_server(lab: Lab) -> None:
    lab.apply(
        image(),
        volume("data"),
        using("maker", mounted("data"), security=STRONG),
        using("user", mounted("data"), security=STRONG),
    )
    lab.shell("maker", "cp /usr/bin/id /data/id; chmod 4755 /data/id")
    assert stat.S_IMODE((data(lab) / "id").stat().st_mode) == 0o4755
    as_user = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups")
    assert lab.run("user", *as_user, "/data/id", "-u").stdout == "1000\n"
    made = lab.run("maker", "mknod", "/data/null", "c", "1", "3", check=False)
    assert made.returncode == 1 and "not permitted" in made.stderr
    os.mknod(data(lab) / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    opened = lab.run("user", "cat", "/data/null", check=False)
    assert opened.returncode == 1 and "Permission denied" in opened.stderr


@pytest.mark.parametrize("link, place", [("/proc", "/proc"), ("/dev", "/dev"), ("/proc/1", "/proc")])
def test_a_link_in_a_volume_or_root_leads_no_mount_over_what_confines_a_server(
    lab: Lab, link: str, place: str
) -> None:
    both = (image(), volume("data"), volume("more"))
    lab.apply(*both, using("a", mounted("data")))
    lab.shell("a", f"ln -s {link} /data/inner; ln -s {link} /srv/inner")
    init, table = lab.init("a"), Path(f"/proc/{lab.init('a').pid}/mountinfo").read_text()
    for target in ("/data/inner", "/srv/inner"):
        said = lab.refused(*both, using("a", mounted("data"), mounted("more", target)))
        assert f"mount volume more at {target}: leads to the mount {place}" in said
        assert lab.init("a") == init and Path(f"/proc/{init.pid}/mountinfo").read_text() == table
    lab.vsprov("stop", "a")
    said = lab.refused(*both, using("a", mounted("data"), mounted("more", "/data/inner")))
    assert "/data/inner" in said and lab.running("a") is None


def test_a_link_to_nothing_at_a_target_is_not_followed(lab: Lab) -> None:
    both = (image(), volume("data"))
    lab.apply(*both, server("a"))
    lab.shell("a", "ln -s /proc/nothing /srv/inner")
    assert "Not a directory" in lab.refused(*both, using("a", mounted("data", "/srv/inner/deep")))


def test_a_link_that_a_server_leaves_in_a_volume_is_not_followed_by_the_host(
    lab: Lab, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    lab.apply(image(), volume("data"), using("a", mounted("data")))
    lab.shell("a", f"mkdir /data/sub; ln -s {secret} /data/sub/link")
    bind = {"type": "bind", "source": str(data(lab) / "sub/link"), "target": "/srv", "readOnly": True}
    said = lab.refused(image(), volume("data"), using("a", mounted("data")), using("b", bind))
    assert "a symbolic link in a folder that servers may write to" in said


def test_nobody_leaves_a_shared_volume_by_moving_what_another_server_is_in(lab: Lab) -> None:
    lab.apply(image(), volume("data"), using("a", mounted("data")), using("b", mounted("data")))
    lab.shell("b", "mkdir -p /data/deep/er; echo own > /own")
    script = "cd /data/deep/er; touch /data/ready; while [ -e /data/ready ]; do sleep 0.05; done; "
    script += "ls ../../../../../../../../; cat ../../../../../../../../own"
    pending = lab.vsprov.command("exec", "b", "--", "sh", "-c", script)
    with subprocess.Popen(
        pending, env=lab.vsprov.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lab.wait_until(lambda: (data(lab) / "ready").exists())
        lab.shell("a", "mv /data/deep/er /data/moved; rmdir /data/deep; rm /data/ready")
        said, _ = process.communicate()
    assert process.returncode == 0 and said.endswith("own\n") and "volumes" not in said.split()


def test_a_server_cannot_replace_the_root_of_a_volume_nor_reach_its_record(lab: Lab) -> None:
    lab.apply(image(), volume("data"), using("a", mounted("data"), security=LOADED))
    for words in ("mv /data /gone", "rmdir /data", "ls /data/../volume.json"):
        assert lab.run("a", "sh", "-c", words, check=False).returncode != 0
    lab.shell("a", "chmod 000 /data; chown 7:7 /data")
    assert data(lab).is_dir()
    lab.apply(image(), volume("data"), using("a", mounted("data")), using("b", mounted("data")))
    assert lab.shell("b", "stat -c %u:%a /data") == "7:0\n"


def test_a_volume_that_a_server_has_covered_is_not_unmounted_by_mistake(lab: Lab) -> None:
    lab.apply(image(), volume("data"), using("a", mounted("data"), security=LOADED))
    lab.shell("a", "mount -t tmpfs none /data; touch /data/covered")
    before = leaks.mounts_of_host()
    said = lab.refused(image(), volume("data"), server("a", security=LOADED))
    assert "something else is mounted there" in said
    assert lab.shell("a", "ls /data") == "covered\n"
    assert leaks.mounts_of_host() == before


def test_a_special_file_in_the_directory_of_an_image_is_left_out(lab: Lab, tmp_path: Path) -> None:
    top = tmp_path / "root"
    (top / "srv").mkdir(parents=True)
    os.mkfifo(top / "srv/fifo")
    (top / "srv/link").symlink_to("/etc/passwd")
    (top / "escape").symlink_to("/etc")
    made = image("small", directory=str(top))
    lab.apply(made, volume("data", source={"image": {"name": "small", "path": "/srv"}}))
    assert os.listdir(data(lab)) == ["link"] and os.readlink(data(lab) / "link") == "/etc/passwd"
    said = lab.refused(
        made, volume("data"), volume("out", source={"image": {"name": "small", "path": "/escape"}})
    )
    assert "image small: /escape: No such file or directory" in said  # its own /etc, not the host's
    shutil.rmtree(top)


@pytest.mark.vm_subset
def test_what_is_mounted_read_only_stays_so_for_a_server_that_may_mount(lab: Lab, tmp_path: Path) -> None:
    """Its image too: with the image of the host, that is /usr of the host."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/file").write_text("the host's\n")
    bind = {"type": "bind", "source": str(tmp_path / "shared"), "target": "/dir", "readOnly": True}
    one = {**bind, "source": str(tmp_path / "shared/file"), "target": "/file"}
    mounts = [mounted("data", "/data", readOnly=True), bind, one]
    lab.apply(image(), volume("data"), using("web1", *mounts, security=LOADED))
    script = """
    set +e
    for at in /usr /data /dir /file; do
        grep -q " $at ro," /proc/self/mountinfo || echo "$at is not read-only"
        mount -o remount,bind,rw $at 2>/dev/null && echo "$at was remounted"
        mkdir -p /tmp/copy; mount --bind $at /tmp/copy 2>/dev/null && {
            mount -o remount,bind,rw /tmp/copy 2>/dev/null && echo "a copy of $at was remounted"
            umount /tmp/copy
        }
        grep -q " $at ro," /proc/self/mountinfo || echo "$at became writable"
    done
    unshare -m mount -o remount,bind,rw /dir 2>/dev/null && echo "/dir was remounted in another namespace"
    true"""
    assert lab.shell("web1", script) == ""
    assert lab.shell("web1", "cat /dir/file /file") == "the host's\n" * 2
    # A change of the manifest makes it writable nevertheless.
    init = lab.init("web1")
    mounts[0] = mounted("data", "/data")
    lab.apply(image(), volume("data"), using("web1", *mounts, security=LOADED))
    assert lab.init("web1") == init and lab.shell("web1", "echo x > /data/new; cat /data/new") == "x\n"


def test_a_server_that_may_mount_gets_a_read_only_volume_by_a_restart(lab: Lab) -> None:
    """Mounted while it runs, the volume would not be locked."""
    both = (image(), volume("data"))
    lab.apply(*both, using("web1", security=LOADED), server("plain"))
    init, plain = lab.init("web1"), lab.init("plain")
    wanted = (
        *both,
        using("web1", mounted("data", readOnly=True), security=LOADED),
        using("plain", mounted("data", readOnly=True)),
    )
    changes = {one["name"]: one for one in lab.plan(*wanted)["resource_changes"]}
    assert [one["disruption"] for one in changes["web1"]["paths"]] == ["restart"]
    why = "a server with SYS_ADMIN could make what is mounted while it runs writable again"
    assert changes["web1"]["notes"] == [f"restart needed: {why}"]
    lab.converge(*wanted)
    assert lab.init("web1") != init and lab.init("plain") == plain
    refused = lab.run("web1", "mount", "-o", "remount,bind,rw", "/data", check=False)
    assert refused.returncode != 0 and lab.run("web1", "touch", "/data/x", check=False).returncode == 1
    # From writable to read-only, too.
    init = lab.init("web1")
    lab.converge(*both, using("web1", mounted("data"), security=LOADED), wanted[-1])
    assert lab.init("web1") == init and lab.shell("web1", "touch /data/x; ls /data") == "x\n"
    lab.converge(*wanted)
    assert lab.init("web1") != init
    assert lab.run("web1", "mount", "-o", "remount,bind,rw", "/data", check=False).returncode != 0
