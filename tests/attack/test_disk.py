"""A server that is root of its own file system, and what of the disk limit it can reach."""

from __future__ import annotations

import pytest

from tests import leaks
from tests.lab import Lab, image, server

pytestmark = pytest.mark.requires("overlay", "loop", "ext4", "mkfs_ext4")
SIZE = "stat -f -c '%b %c' /"  # blocks and inodes
# Every request that could change a file system or its limit, on its root, on a file and on all devices.
IOCTLS = """
import fcntl, os, struct
done = []
for path in ("/", "/file"):
    fd = os.open(path, os.O_RDONLY)
    for name, number, argument in (
        ("EXT4_IOC_RESIZE_FS", 0x40086610, struct.pack("Q", 1 << 20)),
        ("EXT4_IOC_GROUP_EXTEND", 0x40086607, struct.pack("Q", 1 << 20)),
        ("EXT4_IOC_SHUTDOWN", 0x8004587D, struct.pack("I", 2)),
        ("FITRIM", 0xC0185879, struct.pack("3Q", 0, 2**63, 0)),
        ("FIFREEZE", 0xC0045877, struct.pack("i", 0)),
        ("FS_IOC_FSSETXATTR", 0x401C5820, struct.pack("5I8x", 0x200, 0, 0, 7, 0)),
    ):
        try:
            fcntl.ioctl(fd, number, argument)
            done.append(name)
        except OSError:
            pass
print(done)
"""


@pytest.fixture
def box(lab: Lab) -> Lab:
    """A server with a limited disk and the capabilities that mounting takes."""
    lab.apply(
        image(),
        server(
            "box",
            resources={"disk": {"space": "32Mi", "backend": "image"}},
            security={"capabilities": {"add": ["SYS_ADMIN", "MKNOD"]}},
            init={"stopSignal": "KILL"},
        ),
    )
    return lab


@pytest.mark.vm_subset
def test_its_root_can_neither_resize_nor_freeze_its_file_system(box: Lab) -> None:
    before = box.shell("box", SIZE + "; touch /file")
    assert box.run("box", "python3", "-c", IOCTLS).stdout == "[]\n"
    assert box.shell("box", SIZE) == before


def test_the_file_system_is_in_no_mount_table(box: Lab) -> None:
    assert " ext4 /dev/loop" not in box.shell("box", "cat /proc/self/mountinfo")
    assert not [each for each in leaks.mounts() if each.point.startswith(str(box.vsprov.folder))]


@pytest.mark.vm_subset
def test_its_root_cannot_reach_the_loop_device(box: Lab) -> None:
    (device,) = leaks.loops(box.vsprov.folder)
    number = int(device.removeprefix("/dev/loop"))
    before = box.shell("box", SIZE)
    script = f"""
    set +e
    ls /dev/loop* 2>/dev/null
    mknod /dev/l b 7 {number} 2>/dev/null && dd if=/dev/zero of=/dev/l count=1 2>/dev/null && echo written
    mknod /l b 7 {number} 2>/dev/null && dd if=/dev/zero of=/l count=1 2>/dev/null && echo written
    mkdir -p /mnt; mount -t ext4 {device} /mnt 2>/dev/null && echo mounted
    for f in /sys/fs/ext4/loop{number}/*; do echo 1 2>/dev/null >$f && echo $f; done 2>/dev/null
    mount -o remount,size=1G / 2>/dev/null && df -m / | tail -1
    true"""
    said = box.shell("box", script)
    assert "written" not in said and "mounted" not in said and "/sys" not in said and "loop" not in said
    assert box.shell("box", SIZE) == before


def test_the_files_of_its_names_are_no_way_around_the_limit(lab: Lab) -> None:
    """They are on the disk of the host."""
    lab.apply(image(), server("web1", resources={"disk": {"space": "32Mi"}}), server("free"))
    before = (lab.directory("web1") / "hosts").read_text()
    script = """
    set +e
    mount -o remount,bind,rw /etc/hosts 2>/dev/null && echo remounted
    chmod 666 /etc/hosts 2>/dev/null && echo changed
    dd if=/dev/zero of=/etc/hosts bs=1M count=40 2>/dev/null && echo written
    true"""
    assert lab.shell("web1", script) == ""
    assert (lab.directory("web1") / "hosts").read_text() == before
    assert lab.shell("free", "echo 10.0.0.1 own >> /etc/hosts; tail -n 1 /etc/hosts") == "10.0.0.1 own\n"
