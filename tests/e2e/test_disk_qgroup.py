"""Disk limits by quota groups, which a state root on btrfs with quotas has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.btrfs import groups
from tests.instance import own_instance
from tests.lab import Document, Lab, image, mounted, server, volume

MI = 1 << 20


def limited(name: str = "a", **disk: Any) -> Document:
    return server(name, resources={"disk": {"space": "64Mi", **disk}}, init={"stopSignal": "KILL"})


def place(lab: Lab, name: str = "a") -> Path:
    """The subvolume of a server."""
    return lab.directory(name) / "disk"


def limits(lab: Lab) -> dict[str, int | None]:
    """{server: its limit} of all subvolumes of servers, and of groups that have no subvolume any more."""
    return {
        Path(path).parent.name if "/" in path else path: limit
        for path, (_, limit) in groups(lab.vsprov.folder).items()
        if path != "<toplevel>"
    }


def test_a_group_limits_a_server_alone_and_changes_while_it_runs(quota_lab: Lab) -> None:
    lab, neighbor = quota_lab, server("neighbor", init={"stopSignal": "KILL"})
    lab.converge(image(), limited(), neighbor)
    assert limits(lab) == {"a": 64 * MI}
    init = lab.init("a")
    said = lab.run("a", "dd", "if=/dev/zero", "of=/big", "bs=64k", check=False)
    assert said.returncode == 1 and "Disk quota exceeded" in said.stderr
    lab.shell("neighbor", "dd if=/dev/zero of=/big bs=1M count=70 2>/dev/null; sync; rm /big")
    lab.shell("a", "sync")
    said_plan = lab.refused(image(), limited(space="32Mi"), neighbor)
    assert "spec.resources.disk.space: 32Mi is less than what the server uses, 6" in said_plan

    found = json.loads(lab.vsprov("get", "server", "a", "-o", "json").stdout)["status"]["disk"]
    assert found["backend"] == "qgroup" and found["spaceBytes"] == 64 * MI
    assert 60 * MI < found["usedBytes"] <= 64 * MI
    assert found["inodes"] is None and found["usedInodes"] is None

    assert lab.differences(image(), limited(space="128Mi"), neighbor) == {
        "Server/a /spec/resources/disk/space": (64 * MI, 128 * MI, "live")
    }
    lab.converge(image(), limited(space="128Mi"), neighbor)
    lab.shell("a", "dd if=/dev/zero of=/more bs=1M count=50 2>/dev/null; rm /big; sync")
    lab.converge(image(), limited(space="60Mi"), neighbor)
    assert limits(lab) == {"a": 60 * MI} and lab.init("a") == init
    assert lab.run("a", "dd", "if=/dev/zero", "of=/big", "bs=64k", "count=300", check=False).returncode == 1
    # What is full can be emptied.
    assert lab.shell("a", "rm /big /more; sync; echo x >/small; cat /small") == "x\n"


def test_what_the_host_keeps_of_a_server_does_not_count(quota_lab: Lab) -> None:
    lab = quota_lab
    lab.converge(image(), limited())
    lab.run("a", "dd", "if=/dev/zero", "of=/big", "bs=64k", check=False)
    lab.shell("a", "echo still logged >/proc/1/fd/1")
    lab.wait_until(lambda: "still logged" in lab.vsprov("logs", "a").stdout)
    lab.vsprov("restart", "a")
    assert lab.shell("a", "rm /big && echo gone") == "gone\n"
    assert lab.is_settled(image(), limited())


def test_a_limit_that_was_changed_or_removed_by_hand_is_repaired(quota_lab: Lab) -> None:
    lab = quota_lab
    lab.converge(image(), limited())
    for given, shown in (("100M", 100 * MI), ("none", None)):
        subprocess.run(["btrfs", "qgroup", "limit", given, place(lab)], check=True)
        expected = {"Server/a /spec/resources/disk/space": (shown, 64 * MI, "live")}
        assert lab.differences(image(), limited()) == expected
        lab.converge(image(), limited())
        assert limits(lab) == {"a": 64 * MI}


def test_quotas_that_were_disabled_are_named_and_repaired_when_they_are_back(quota_lab: Lab) -> None:
    lab = quota_lab
    lab.converge(image(), limited())
    subprocess.run(["btrfs", "quota", "disable", lab.vsprov.folder], check=True)
    said = lab.refused(image(), limited(), code=69)
    assert "has no quotas enabled (btrfs quota enable " in said
    subprocess.run(["btrfs", "quota", "enable", lab.vsprov.folder], check=True)
    lab.converge(image(), limited())
    assert limits(lab) == {"a": 64 * MI}


def test_a_subvolume_that_was_removed_under_its_server_is_made_again(quota_lab: Lab) -> None:
    lab = quota_lab
    lab.converge(image(), limited(), limited("b"))
    inits = lab.inits("b")
    subprocess.run(["btrfs", "subvolume", "delete", place(lab)], check=True, capture_output=True)
    found = lab.differences(image(), limited(), limited("b"))
    lost = ("missing", "empty; what the server had written is lost", "restart")
    assert found["Server/a /status/disk"] == lost
    lab.converge(image(), limited(), limited("b"))
    lab.shell("a", "echo x >/written")
    assert lab.inits("b") == inits


def test_a_limit_of_inodes_is_refused_or_takes_another_backend(quota_lab: Lab) -> None:
    lab = quota_lab
    said = lab.refused(image(), limited(inodes=500, backend="qgroup"))
    assert "spec.resources.disk.inodes: the backend qgroup cannot limit the number of inodes" in said
    assert not lab.directory("a").exists()
    lab.converge(image(), limited(inodes=500))
    assert (lab.directory("a") / "disk.img").exists()


def test_no_limit_any_more_and_one_again_are_live(quota_lab: Lab) -> None:
    lab, free = quota_lab, server("a", init={"stopSignal": "KILL"})
    lab.converge(image(), limited())
    init = lab.init("a")
    lab.converge(image(), free)
    assert limits(lab) == {"a": None}
    lab.shell("a", "dd if=/dev/zero of=/big bs=1M count=70 2>/dev/null; rm /big; sync")
    lab.converge(image(), limited())
    assert limits(lab) == {"a": 64 * MI} and lab.init("a") == init


def test_an_ephemeral_server_gets_an_empty_subvolume_with_its_limit(quota_lab: Lab) -> None:
    lab = quota_lab
    document = limited()
    document["spec"]["ephemeral"] = True
    lab.converge(image(), document)
    lab.shell("a", "echo x >/written")
    lab.vsprov("restart", "a")
    assert lab.run("a", "test", "-e", "/written", check=False).returncode == 1
    lab.wait_until(lambda: limits(lab) == {"a": 64 * MI})


def test_snapshots_a_rename_and_the_end(quota_lab: Lab) -> None:
    lab = quota_lab
    lab.converge(image(), limited())
    lab.shell("a", "echo before >/state; echo inside >/written")
    lab.vsprov("snapshot", "create", "a", "one")
    lab.shell("a", "echo after >/state")
    assert "A /state" in lab.vsprov("changes", "a").stdout.splitlines()
    lab.vsprov("snapshot", "restore", "-y", "a", "one")
    assert lab.shell("a", "cat /state") == "before\n"
    lab.vsprov("rename", "-y", "a", "z")
    assert lab.shell("z", "cat /written") == "inside\n"
    lab.wait_until(lambda: limits(lab) == {"z": 64 * MI})
    lab.vsprov("destroy", "--all", "-y")
    lab.wait_until(lambda: limits(lab) == {})


def test_doctor_says_how_quotas_are_enabled(btrfs_disk: Path) -> None:
    with own_instance(btrfs_disk) as instance:
        lab = Lab(instance)

        def found(feature: str = "disk limits  ") -> str:
            lines = lab.vsprov("doctor", check=False).stdout.splitlines()
            return next(line for line in lines if line.startswith(feature))

        assert "cannot be used" in found("disk limits of pools")
        assert "backend image" in found() and "no quotas enabled (btrfs quota enable " in found()
        said = lab.refused(image(), limited(backend="qgroup"), code=69)
        assert "spec.resources.disk.backend: qgroup is not supported by this host:" in said
        subprocess.run(["btrfs", "quota", "enable", btrfs_disk], check=True)
        subprocess.run(["btrfs", "quota", "rescan", "-w", btrfs_disk], check=True, capture_output=True)
        assert "backend qgroup" in found() and "backend qgroup" in found("disk limits of pools")


IOCTLS = """
import fcntl, os, struct
done = []
top = os.open("/", os.O_RDONLY)
group = struct.unpack_from("Q", bytes(8))[0]
for name, number, argument in (
    ("SUBVOL_CREATE", 0x5000940E, bytes(8) + b"own".ljust(4088, bytes(1))),
    ("QGROUP_LIMIT", 0x8030942B, struct.pack("6Q", 0, 1, 2**64 - 1, 0, 0, 0)),
    ("QUOTA_CTL", 0xC0109428, struct.pack("2Q", 2, 0)),
):
    try:
        fcntl.ioctl(top, number, bytearray(argument))
        done.append(name)
    except OSError:
        pass
print(done)
"""


def test_its_root_can_neither_leave_its_subvolume_nor_change_its_limit(quota_lab: Lab) -> None:
    lab = quota_lab
    lab.converge(image(), limited())
    assert lab.run("a", "python3", "-c", IOCTLS).stdout == "[]\n"
    assert limits(lab) == {"a": 64 * MI}
    assert not os.path.lexists(place(lab) / "upper/own")


SUBVOLUMES = """
import ctypes, errno, os, struct, sys
top, ioctl = os.open(sys.argv[1], os.O_RDONLY), ctypes.CDLL(None, use_errno=True).ioctl
old = lambda fd, name: struct.pack("q4088s", fd, name)  # struct btrfs_ioctl_vol_args
new = lambda fd, name: struct.pack("3q32x4040s", fd, 0, 0, name)  # …_vol_args_v2
for number, argument in (
    (0x5000940E, old(0, b"one")), (0x50009401, old(top, b"two")), (0x50009418, new(0, b"three")),
    (0x50009417, new(top, b"four")), (0x4008941A, bytes(8)),
):
    done = ioctl(top, ctypes.c_ulong(number), ctypes.create_string_buffer(argument))
    print(errno.errorcode[ctypes.get_errno()] if done < 0 else done, end=" ")
"""


def test_a_server_can_make_no_subvolume_in_a_volume_which_its_limit_would_not_reach(
    quota_lab: Lab, btrfs_disk: Path
) -> None:
    """Whoever may write to a directory of btrfs may do that, in a user namespace too."""
    control = btrfs_disk / "control"
    subprocess.run(["btrfs", "subvolume", "create", control], check=True, capture_output=True)
    done = subprocess.run([sys.executable, "-c", SUBVOLUMES, control], capture_output=True, text=True)
    assert done.stdout.split() == ["0"] * 5
    assert sorted(os.listdir(control)) == ["four", "one", "three", "two"]

    lab = quota_lab
    lab.converge(
        image(), volume("data", size="64Mi", backend="qgroup"), server("a", mounts=[mounted("data")])
    )
    assert lab.run("a", "python3", "-c", SUBVOLUMES, "/data").stdout.split() == ["ENOTTY"] * 5
    assert lab.shell("a", "ls -A /data") == ""
    lab.vsprov("destroy", "-y", "--all", "--volumes")


@pytest.mark.parametrize("program", ["mv", "cp"])
def test_files_of_a_full_server_can_be_replaced(quota_lab: Lab, program: str) -> None:
    """A group that is full keeps nobody from removing or renaming."""
    lab = quota_lab
    lab.converge(image(), limited())
    lab.shell("a", "echo small >/small; sync")
    lab.run("a", "dd", "if=/dev/zero", "of=/big", "bs=64k", check=False)
    assert lab.shell("a", f"rm /big; sync; {program} /small /other; cat /other") == "small\n"


def test_a_subvolume_in_what_a_server_has_written_is_copied_as_a_directory(
    btrfs_disk: Path, tmp_path: Path
) -> None:
    with own_instance(btrfs_disk) as instance:
        lab = Lab(instance)
        lab.apply(image(), volume("data"), server("a", mounts=[mounted("data")]))
        for top in (lab.directory("a") / "upper", lab.vsprov.root / "volumes/data/data"):
            subprocess.run(["btrfs", "-q", "subvolume", "create", top / "sub"], check=True)
            (top / "sub/file").write_text("kept\n")
            for path in (top / "sub", top / "sub/file"):
                os.chown(path, *os.lstat(top)[4:6])
        lab.vsprov("snapshot", "create", "a", "one")
        lab.vsprov("clone", "a", "b")
        lab.vsprov("export", "a", "-o", tmp_path / "a")
        lab.vsprov("import", tmp_path / "a", "--name", "c", "--volume", "data=data-c")
        lab.vsprov("commit", "a", "saved")
        (lab.vsprov.root / "volumes/data/data/sub/file").write_text("changed\n")
        lab.vsprov("snapshot", "restore", "a", "one", "--volumes", "-y")
        lab.vsprov("start", "b", "c")
        for name in ("a", "b", "c"):
            assert lab.shell(name, "cat /sub/file /data/sub/file") == "kept\nkept\n"
        lab.vsprov(
            "destroy", "--all", "-y", *(f"--delete-data={name}" for name in ("data", "data-b", "data-c"))
        )
