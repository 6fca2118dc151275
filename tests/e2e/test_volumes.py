"""Volumes: created, filled, shared, mounted in running servers and unmounted again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import archives
from tests.e2e.verbs import HOST
from tests.lab import Document, Lab, mounted, server, to_yaml, volume
from vsprov.engine.volumes import preflight
from vsprov.plan.plan import Plan

MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
FLAGS = 2 | 4  # nosuid, nodev


def data(lab: Lab, name: str = "data") -> Path:
    """The files of a volume on the host."""
    return lab.vsprov.root / "volumes" / name / "data"


def ids(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def by_hand(lab: Lab, name: str, call: str) -> None:
    """Make a call of libc in the mount namespace of a server. umount(8) needs a /proc that knows it."""
    script = f"import ctypes, os; assert not ctypes.CDLL(None, use_errno=True).{call}"
    words = ["nsenter", "-t", str(lab.init(name).pid), "-m", "-r", "python3", "-c", script]
    subprocess.run(words, check=True)


def mounts(lab: Lab, name: str) -> list[str]:
    """The targets of the mounts of a server, from the kernel."""
    lines = Path(f"/proc/{lab.init(name).pid}/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines]


def mount(*each: Document) -> dict[str, Any]:
    return {"mounts": list(each)}


@pytest.mark.vm_subset
def test_two_servers_write_to_one_volume_with_their_own_users_and_it_is_stored_unshifted(lab: Lab) -> None:
    shared = (HOST, volume("data", mode="1777"), server("a", **mount(mounted("data"))),
              server("b", **mount(mounted("data", "/srv/deep/data"))))  # fmt: skip
    lab.converge(*shared)
    as_user = ("setpriv", "--reuid", "1000", "--regid", "1001", "--clear-groups")
    lab.run("a", *as_user, "sh", "-c", "echo of a > /data/a; chmod 600 /data/a")
    lab.run("b", *as_user, "sh", "-c", "cat /srv/deep/data/a; echo of b > /srv/deep/data/b")
    assert lab.shell("a", "stat -c %u:%g /data/a /data/b; cat /data/b") == "1000:1001\n1000:1001\nof b\n"
    assert (ids(data(lab) / "a"), ids(data(lab) / "b")) == ((1000, 1001), (1000, 1001))
    lab.shell("b", "touch /srv/deep/data/root; chown 33:33 /srv/deep/data/a")
    assert lab.shell("a", "stat -c %u:%g /data/root /data/a") == "0:0\n33:33\n"
    assert lab.run("a", *as_user, "cat", "/data/a", check=False).returncode == 1
    other = lab.run("a", "setpriv", "--reuid", "1002", "rm", "/data/b", check=False)
    assert other.returncode == 1 and "not permitted" in other.stderr


def test_what_is_mounted_in_a_volume_is_neither_setuid_nor_a_device(lab: Lab) -> None:
    lab.apply(HOST, volume("data"), server("a", **mount(mounted("data"))))
    table = Path(f"/proc/{lab.init('a').pid}/mountinfo").read_text()
    line = next(line for line in table.splitlines() if " /data " in line)
    assert {"nosuid", "nodev"} <= {*line.split()[5].split(",")}


@pytest.mark.vm_subset
def test_a_read_only_mount_refuses_writes_of_root_and_becomes_writable_live(lab: Lab) -> None:
    lab.apply(HOST, volume("data"), server("a", **mount(mounted("data", readOnly=True))))
    init = lab.init("a")
    refused = lab.run("a", "touch", "/data/x", check=False)
    assert refused.returncode == 1 and "Read-only file system" in refused.stderr
    writable = (HOST, volume("data"), server("a", **mount(mounted("data"))))
    assert lab.differences(*writable) == {
        "Server/a /spec/mounts/~1data": ("volume data (read-only)", "volume data", "live")
    }
    lab.converge(*writable)
    lab.shell("a", "touch /data/x")
    assert lab.init("a") == init


@pytest.mark.vm_subset
def test_a_volume_is_mounted_in_and_unmounted_from_a_running_server(lab: Lab) -> None:
    before = (HOST, volume("data"), server("a"))
    after = (HOST, volume("data"), server("a", **mount(mounted("data", "/srv/new/data"))))
    lab.apply(*before)
    init = lab.init("a")
    assert lab.differences(*after) == {
        "Server/a /spec/mounts/~1srv~1new~1data": (None, "volume data", "live")
    }
    lab.converge(*after)
    assert "/srv/new/data" in mounts(lab, "a")
    lab.shell("a", "echo live > /srv/new/data/file; stat -c %u:%a /srv/new > /srv/new/data/folder")
    assert (data(lab) / "folder").read_text() == "0:755\n"
    assert ids(data(lab) / "file") == (0, 0)
    lab.converge(*before)
    assert "/srv/new/data" not in mounts(lab, "a")
    assert lab.shell("a", "ls /srv/new/data") == ""
    assert lab.init("a") == init and (data(lab) / "file").read_text() == "live\n"


IN_USE = {
    "working directory": "cd /data && exec sleep infinity",
    "open file": "exec sleep infinity 3>/data/file",
    "mapped file": """cp /usr/bin/python3 /data/p; exec python3 -c "
import mmap, os, time
fd = os.open('/data/p', os.O_RDONLY); m = mmap.mmap(fd, 0, prot=mmap.PROT_READ); os.close(fd)
os.makedirs('/tmp/ready', exist_ok=True); time.sleep(9999)" """,
}


@pytest.mark.parametrize("script", IN_USE.values(), ids=IN_USE)
def test_a_volume_that_a_process_uses_is_unmounted_by_a_restart_and_the_plan_says_who_uses_it(
    lab: Lab, script: str
) -> None:
    busy = ("sh", "-c", f"touch /data/own; {script}")
    lab.apply(HOST, volume("data"), server("a", *busy, **mount(mounted("data"))))
    if "ready" in script:
        lab.wait_until(lambda: lab.run("a", "test", "-e", "/tmp/ready", check=False).returncode == 0)
    init = lab.init("a")
    after = (HOST, volume("data"), server("a", *busy))
    plan = lab.plan(*after)
    (change,) = plan["resource_changes"]
    (path,) = change["paths"]
    assert path["disruption"] == "restart" and path["after"] is None
    name = "python3" if "ready" in script else "sleep"
    assert path["before"] == f"volume data, used by {name} (pid {init.pid})"
    assert change["notes"] == ["restart needed: a volume that a process uses cannot be unmounted"]
    lab.converge(*after)
    assert lab.init("a") != init and "/data" not in mounts(lab, "a")
    assert (data(lab) / "own").exists()


def test_a_volume_is_made_read_only_by_a_restart_only_while_a_process_writes_to_it(lab: Lab) -> None:
    read, write = "exec sleep infinity 3</data", "exec sleep infinity 3>/data/file"
    documents = [
        server(name, "sh", "-c", script, **mount(mounted("data", readOnly=only)))
        for only in (False, True)
        for name, script in (("reads", read), ("writes", write))
    ]
    lab.apply(HOST, volume("data"), *documents[:2])
    lab.wait_until(lambda: (data(lab) / "file").exists())
    init, found = lab.init("reads"), lab.differences(HOST, volume("data"), *documents[2:])
    assert found["Server/reads /spec/mounts/~1data"] == ("volume data", "volume data (read-only)", "live")
    before, after, cost = found["Server/writes /spec/mounts/~1data"]
    assert (after, cost) == ("volume data (read-only)", "restart") and "used by sleep (pid " in before
    lab.converge(HOST, volume("data"), documents[2])
    assert lab.init("reads") == init


def test_a_volume_takes_the_place_of_another_one_live(lab: Lab) -> None:
    both = (HOST, volume("one"), volume("two"))
    lab.apply(*both, server("a", **mount(mounted("one"))))
    init = lab.init("a")
    lab.shell("a", "echo one > /data/file")
    lab.converge(*both, server("a", **mount(mounted("two"))))
    assert lab.shell("a", "ls /data; echo two > /data/file") == ""
    assert lab.init("a") == init
    assert ((data(lab, "one") / "file").read_text(), (data(lab, "two") / "file").read_text()) == (
        "one\n",
        "two\n",
    )


@pytest.mark.parametrize(
    "spec",
    [
        mount(mounted("data")) | {"security": {"readOnlyRoot": True}},
        mount(mounted("data", "/srv"), {"type": "tmpfs", "target": "/srv/tmp"}),
    ],
    ids=["a read-only root", "a mount below it"],
)
def test_what_cannot_be_mounted_live_takes_a_restart_and_the_plan_says_so(lab: Lab, spec: Any) -> None:
    base = {**spec, "mounts": [one for one in spec["mounts"] if one["type"] != "volume"]}
    lab.apply(HOST, volume("data"), server("a", **base))
    init, after = lab.init("a"), (HOST, volume("data"), server("a", **spec))
    assert [cost for _, _, cost in lab.differences(*after).values()] == ["restart"]
    lab.converge(*after)
    assert lab.init("a") != init
    lab.shell("a", f"touch {spec['mounts'][0]['target']}/x")


def test_a_target_through_a_link_of_the_image_is_mounted_and_settled(lab: Lab) -> None:
    through = (HOST, volume("data"), server("a", **mount(mounted("data", "/var/run/data"))))
    lab.converge(*through)
    assert "/run/data" in mounts(lab, "a")
    lab.converge(HOST, volume("data"), server("a"))
    assert "/run/data" not in mounts(lab, "a")
    init = lab.init("a")
    lab.converge(*through)
    assert "/run/data" in mounts(lab, "a") and lab.init("a") == init


@pytest.mark.vm_subset
def test_what_was_changed_by_hand_is_drift_and_is_repaired_live(lab: Lab) -> None:
    wanted = (HOST, volume("data"), server("a", **mount(mounted("data"))))
    lab.apply(*wanted)
    init = lab.init("a")
    by_hand(lab, "a", "umount2(b'/data', 0)")
    assert lab.differences(*wanted) == {
        "Server/a /spec/mounts/~1data": ("not mounted", "volume data", "live")
    }
    assert json.loads(lab.vsprov("get", "server", "a", "-o", "json").stdout)["spec"].get("mounts", []) == []
    lab.converge(*wanted)
    by_hand(lab, "a", f"mount(None, b'/data', None, {MS_BIND | MS_REMOUNT | MS_RDONLY | FLAGS}, None)")
    assert lab.differences(*wanted) == {
        "Server/a /spec/mounts/~1data": ("volume data (read-only)", "volume data", "live")
    }
    lab.converge(*wanted)
    assert lab.init("a") == init
    lab.shell("a", "touch /data/x")


def test_an_exclusive_volume_has_one_server(lab: Lab) -> None:
    one, two = (server(name, **mount(mounted("data"))) for name in "ab")
    said = lab.refused(HOST, volume("data", exclusive=True), one, two)
    assert (
        "Volume/data: spec.exclusive: exclusive, but mounted by Server/a, Server/b" in said.replace("-:", "")
        or "exclusive, but mounted by Server/a, Server/b" in said
    )
    lab.converge(HOST, volume("data", exclusive=True), one)
    other = lab.vsprov("apply", "-y", "--set-name", "other", "-", check=False, input=to_yaml(HOST, two))
    assert other.returncode == 1 and "exclusive, but mounted by Server/a, Server/b" in other.stderr
    lab.converge(HOST, volume("data"), one, two)


# -- creation


def test_a_volume_gets_the_contents_owner_and_mode_of_a_directory_of_its_image_once(
    lab: Lab, tmp_path: Path
) -> None:
    top = tmp_path / "root"
    (top / "var/lib/db/inner").mkdir(parents=True)
    (top / "var/lib/db/inner/file").write_text("first\n")
    os.chown(top / "var/lib/db/inner/file", 70, 70)
    os.chown(top / "var/lib/db", 70, 71)
    (top / "var/lib/db").chmod(0o700)
    small = {"apiVersion": "vsprov/v1", "kind": "Image", "metadata": {"name": "db"},
             "spec": {"source": {"directory": str(top)}}}  # fmt: skip
    source = {"image": {"name": "db", "path": "/var/lib/db"}}
    wanted = (small, volume("data", source=source))
    lab.converge(*wanted)
    assert (ids(data(lab)), data(lab).stat().st_mode & 0o7777) == ((70, 71), 0o700)
    assert (data(lab) / "inner/file").read_text() == "first\n" and ids(data(lab) / "inner/file") == (70, 70)
    (data(lab) / "inner/file").write_text("changed\n")
    (top / "var/lib/db/inner/file").write_text("second\n")
    lab.converge(*wanted)
    assert (data(lab) / "inner/file").read_text() == "changed\n"
    plan = lab.plan(small, volume("data"))
    assert plan["resource_changes"][0]["notes"] == [
        "the source has no effect on the files of a volume that exists"
    ]


def test_a_directory_of_the_image_of_the_host_is_copied(lab: Lab) -> None:
    source = {"image": {"name": "host", "path": "/usr/share/perl5"}}
    lab.converge(HOST, volume("data", source=source, owner=5, mode="0750"))
    assert (ids(data(lab)), data(lab).stat().st_mode & 0o7777) == ((5, 5), 0o750)
    there = {path.name for path in Path("/usr/share/perl5").iterdir()}
    assert {path.name for path in data(lab).iterdir()} == there


def test_a_volume_gets_the_contents_of_an_archive(lab: Lab, tmp_path: Path) -> None:
    packed = tmp_path / "files.tar.gz"
    packed.write_bytes(
        archives.packed(archives.folder("sub", uid=7, gid=8), archives.member("sub/file", b"packed", uid=9))
    )
    lab.converge(HOST, volume("data", source={"tar": {"path": str(packed)}}))
    assert (data(lab) / "sub/file").read_bytes() == b"packed"
    assert (ids(data(lab) / "sub"), ids(data(lab) / "sub/file")[0]) == ((7, 8), 9)


@pytest.mark.parametrize(
    "source, said",
    [
        ({"tar": {"path": "/lost.tar"}}, "/lost.tar: open: No such file or directory"),
        ({"image": {"name": "host", "path": "/lost"}}, "image host: /lost: No such file or directory"),
        ({"image": {"name": "host", "path": "/etc/passwd"}}, "image host: /etc/passwd: Not a directory"),
    ],
)
def test_a_source_that_is_not_there_is_named_and_nothing_is_left(lab: Lab, source: Any, said: str) -> None:
    assert said in lab.refused(HOST, volume("data", source=source))
    assert not data(lab).parent.exists()
    assert not [path for path in (lab.vsprov.root / "volumes").glob(".*")]


def test_an_archive_with_another_checksum_is_refused(lab: Lab, tmp_path: Path) -> None:
    packed = tmp_path / "files.tar"
    packed.write_bytes(archives.packed(archives.member("file", b"x")))
    source = {"tar": {"path": str(packed), "sha256": "0" * 64}}
    assert "expected sha256 000000" in lab.refused(HOST, volume("data", source=source))
    assert not data(lab).exists()


def test_owner_and_mode_change_live_only_when_the_manifest_changes(lab: Lab) -> None:
    running = server("a", **mount(mounted("data")))
    lab.converge(HOST, volume("data", owner=10, mode="0750"), running)
    lab.shell("a", "chown 33:33 /data; chmod 700 /data")
    assert lab.is_settled(HOST, volume("data", owner=10, mode="0750"), running)
    lab.converge(HOST, volume("data", owner="11:12", mode="0750"), running)
    assert lab.shell("a", "stat -c %u:%g:%a /data") == "11:12:700\n"
    assert "Root directory: owner 11:12, mode 0700" in lab.vsprov("describe", "volume", "data").stdout


def test_a_state_root_that_cannot_be_idmapped_is_refused_by_the_plan(lab: Lab) -> None:
    (problem,) = preflight.problems("/proc/fs/none", Plan(()), ())
    assert "volumes need idmapped mounts, which proc refuses" in problem.message and problem.lack
