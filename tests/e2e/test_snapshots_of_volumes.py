"""Snapshots, restores and clones of servers with volumes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.lab import Document, Lab, image, mounted, server, volume, wait_until

HOST = image()
PROTECTED = {"annotations": {"vsprov/deletion": "prevent", "note": "mine"}}
COUNT = "cd /data; i=0; while :; do i=$((i+1)); for f in a z; do echo $i > .n; mv .n $f; done; done"


def using(name: str, *mounts: Document, **spec: object) -> Document:
    return server(name, mounts=list(mounts), **spec)


def data(lab: Lab, name: str) -> Path:
    return lab.vsprov.root / "volumes" / name / "data"


def snapshot(lab: Lab, name: str, of: str, path: str = "") -> Path:
    return lab.directory(name) / "snapshots" / of / path


def restore(lab: Lab, *words: str, code: int = 0) -> str:
    done = lab.vsprov("snapshot", "restore", *words, "-y", check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


def names(lab: Lab) -> list[str]:
    return sorted(path.name for path in (lab.vsprov.root / "volumes").iterdir())


@pytest.mark.vm_subset
def test_a_restore_gives_back_files_and_volumes_of_one_moment_and_keeps_volumes_unless_told(lab: Lab) -> None:
    manifest = (HOST, volume("data", owner="999:999", mode="0750"), using("db", mounted("data")))
    lab.apply(*manifest)
    lab.shell("db", "cd /data; echo old > file; ln file twin; chown 33:33 file; echo old > /srv/file")
    made = json.loads(lab.vsprov("snapshot", "create", "db", "before", "-o", "json").stdout)
    assert made["volumes"] == ["data"]
    assert lab.vsprov("snapshot", "ls").stdout.split()[5::6][:1] == ["VOLUMES"]
    lab.shell("db", "echo new > /data/file; rm /data/twin; chmod 777 /data; echo new > /srv/file")
    first = lab.init("db")
    assert "not restored: volumes data; --volumes restores them, too" in restore(lab, "db", "before")
    assert lab.init("db") != first
    assert lab.shell("db", "cat /srv/file /data/file") == "old\nnew\n"
    restore(lab, "db", "before", "--volumes")
    assert lab.shell("db", "cat /srv/file /data/file; stat -c %u:%h /data/twin") == "old\nold\n33:2\n"
    assert lab.shell("db", "stat -c %u:%g:%a /data") == "999:999:750\n"
    assert lab.is_settled(*manifest) and names(lab) == ["data"]
    lab.vsprov("stop", "db")
    (data(lab, "data") / "file").write_text("by hand")
    restore(lab, "db", "before", "--volume", "data")
    assert (data(lab, "data") / "file").read_text() == "old\n"


def test_other_servers_that_write_to_a_volume_stand_still_at_the_moment_of_a_snapshot(lab: Lab) -> None:
    busy = server("busy", "/bin/sh", "-c", COUNT, mounts=[mounted("data")])
    reader = using("reader", mounted("data", readOnly=True))
    lab.apply(HOST, volume("data"), busy, using("web1", mounted("data")), reader)
    wait_until(lambda: (data(lab, "data") / "z").exists())
    for number in range(1000):  # between the two, so that whoever is not frozen writes meanwhile
        (data(lab, "data") / f"m{number:04}").write_text("x")
    for number in range(3):
        lab.vsprov("snapshot", "create", "web1", f"s{number}")
        copy = snapshot(lab, "web1", f"s{number}", "volumes/data")
        one, two = (int((copy / name).read_text()) for name in ("a", "z"))
        assert one - two in (0, 1)
        seen = (data(lab, "data") / "z").read_text()
        wait_until(lambda seen=seen: (data(lab, "data") / "z").read_text() != seen)
    assert json.loads(lab.vsprov("snapshot", "create", "reader", "-o", "json").stdout)["volumes"] == []


def test_a_volume_that_others_use_is_restored_only_by_its_name_while_they_are_stopped(lab: Lab) -> None:
    lab.apply(HOST, volume("own"), volume("data"), using("a", mounted("own"), mounted("data", "/shared")),
              using("b", mounted("data")))  # fmt: skip
    lab.shell("a", "echo old > /data/file; echo old > /shared/file")
    lab.vsprov("snapshot", "create", "a", "before")
    lab.shell("a", "echo new > /data/file; echo new > /shared/file; echo new > /srv/file")
    first = lab.init("a")
    said = restore(lab, "a", "before", "--volumes", code=1)
    assert "volume data is used by Server/b, too" in said and "add --volume data" in said
    said = restore(lab, "a", "before", "--volume", "data", code=1)
    assert "volume data is mounted by Server/b" in said and "vsprov stop b" in said
    assert "it has no volume other: its volumes: data, own" in restore(
        lab, "a", "before", "--volume", "other", code=1
    )
    assert lab.init("a") == first and lab.shell("a", "cat /srv/file /shared/file") == "new\nnew\n"
    asked = lab.vsprov("snapshot", "restore", "a", "before", "--volume", "data", check=False)
    assert asked.returncode != 0
    lab.vsprov("stop", "b")
    assert "not restored: volumes own\n" in restore(lab, "a", "before", "--volume", "data")
    assert lab.shell("a", "cat /shared/file /data/file") == "old\nnew\n"
    lab.vsprov("start", "b")
    assert lab.shell("b", "cat /data/file") == "old\n"


def test_a_renamed_volume_gets_its_files_back_and_a_removed_one_does_not(lab: Lab) -> None:
    lab.apply(HOST, volume("data"), using("db", mounted("data")))
    lab.shell("db", "echo old > /data/file")
    lab.vsprov("snapshot", "create", "db", "before")
    lab.shell("db", "echo new > /data/file")
    lab.apply(HOST, volume("files", {"renamedFrom": "data"}), using("db", mounted("files")))
    restore(lab, "db", "before", "--volumes")
    assert lab.shell("db", "cat /data/file") == "old\n"
    lab.apply(HOST, server("db"))
    lab.vsprov("delete", "volume", "files", "-y")
    said = restore(lab, "db", "before", "--volumes", code=1)
    assert "volume data does not exist any more" in said
    restore(lab, "db", "before")


def test_an_ephemeral_server_gets_back_its_volumes_alone(lab: Lab) -> None:
    lab.apply(HOST, volume("data"), using("db", mounted("data"), ephemeral=True))
    lab.shell("db", "echo old > /data/file; echo old > /srv/file")
    lab.vsprov("snapshot", "create", "db", "before")
    lab.shell("db", "echo new > /data/file")
    restore(lab, "db", "before", "--volumes")
    assert lab.shell("db", "cat /data/file; ls /srv") == "old\n"
    assert "the server is ephemeral" in restore(lab, "db", "before", code=1)


def test_a_server_that_does_not_start_with_its_snapshot_gets_back_its_volumes_too(lab: Lab) -> None:
    lab.apply(HOST, volume("data"), using("web1", mounted("data"), state="Stopped",
                                          init={"command": ["/data/run"]}))  # fmt: skip
    lab.vsprov("snapshot", "create", "web1", "without")
    (data(lab, "data") / "run").write_text("#!/bin/sh\nexec sleep infinity\n")
    (data(lab, "data") / "run").chmod(0o755)
    lab.vsprov("start", "web1")
    said = restore(lab, "web1", "without", "--volumes", code=1)
    assert "/data/run" in said
    assert (data(lab, "data") / "run").exists() and names(lab) == ["data"]
    lab.vsprov("start", "web1")


def test_a_clone_gets_copies_of_the_volumes_of_its_own_and_shares_the_others(lab: Lab) -> None:
    db = using("db", mounted("own"), mounted("shared", "/shared"), mounted("read", "/read", readOnly=True))
    lab.apply(
        HOST,
        volume("own", PROTECTED, exclusive=True, owner="7:8"),
        volume("shared"),
        volume("read"),
        {**db, "metadata": {"name": "db", "labels": {"tier": "data"}, **PROTECTED}},
        using("other", mounted("shared")),
    )
    lab.shell("db", "echo one > /data/file; chown 33:33 /data/file; echo one > /shared/file")
    lab.vsprov("snapshot", "create", "db", "before")
    lab.shell("db", "echo two > /data/file")
    done = lab.vsprov("clone", "db", "db2")
    assert "volume own: will be copied to own-db2" in done.stderr
    assert "volume shared: shared with the clone" in done.stderr
    assert "volume read: shared with the clone" in done.stderr
    lab.vsprov("start", "db2")
    assert lab.shell("db2", "cat /data/file /shared/file; stat -c %u /data/file") == "two\none\n33\n"
    assert lab.shell("db2", "stat -c %u:%g /data") == "7:8\n"
    lab.shell("db2", "echo three > /data/file")
    assert lab.shell("db", "cat /data/file") == "two\n"
    found = [
        {key: json.loads(lab.vsprov("get", *words, "-o", "json").stdout)[key]
         for key in ("apiVersion", "kind", "metadata", "spec")}
        for words in (("server", "db2"), ("volume", "own-db2"))
    ]  # fmt: skip
    assert found[1]["spec"]["exclusive"] is True
    assert found[0]["metadata"] == {
        "name": "db2",
        "labels": {"tier": "data"},
        "annotations": {"note": "mine"},
    }
    assert found[1]["metadata"] == {"name": "own-db2", "annotations": {"note": "mine"}}
    assert lab.is_settled(HOST, *found)
    lab.vsprov("clone", "db", "db3", "--snapshot", "before")
    lab.vsprov("start", "db3")
    assert lab.shell("db3", "cat /data/file") == "one\n"
    lab.vsprov("delete", "server", "db2", "-y")  # the copies are not protected
    lab.vsprov("delete", "volume", "own-db2", "-y")
    lab.apply(HOST, volume("own", exclusive=True, owner="7:8"), using("db", mounted("own")), server("other"))


def test_what_cannot_be_cloned_with_its_volumes_leaves_nothing(lab: Lab) -> None:
    lab.apply(HOST, server("db"))
    lab.vsprov("snapshot", "create", "db", "before")
    lab.apply(HOST, volume("data"), using("db", mounted("data")))
    done = lab.vsprov("clone", "db", "db2", "--snapshot", "before", check=False)
    assert done.returncode == 1 and "snapshot before has no copy of its volume data" in done.stderr
    lab.apply(HOST, volume("data-db2"))
    done = lab.vsprov("clone", "db", "db2", check=False)
    assert done.returncode == 1 and "would be copied to data-db2, which exists" in done.stderr
    long = "x" * 60
    done = lab.vsprov("clone", "db", long, check=False)
    assert done.returncode == 1 and "that name is too long" in done.stderr
    deep = data(lab, "data") / "/".join(["d"] * 300)
    os.makedirs(deep)
    done = lab.vsprov("clone", "db", "db3", check=False)
    assert done.returncode == 1 and "lies too deep" in done.stderr
    assert names(lab) == ["data", "data-db2"]
    assert sorted(path.name for path in (lab.vsprov.root / "servers").iterdir()) == ["db"]
    assert "frozen 0" in (lab.group("db") / "cgroup.events").read_text()


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
def test_a_clone_of_a_server_whose_disk_is_limited_has_the_same_limit(lab: Lab) -> None:
    lab.apply(HOST, server("web1", resources={"disk": {"space": "64Mi", "backend": "image"}}))
    lab.shell("web1", "cd /srv; echo one > file; ln file twin; chown 33:33 file; rm /etc/nsswitch.conf")
    lab.vsprov("snapshot", "create", "web1", "before")
    for name, words in (("web2", ()), ("web3", ("--snapshot", "before"))):
        lab.vsprov("clone", "web1", name, *words)
        lab.vsprov("start", name)
        assert lab.shell(name, "cd /srv; cat file; stat -c %u:%h twin") == "one\n33:2\n"
        assert lab.shell(name, "ls /etc/nsswitch.conf 2>/dev/null || echo none") == "none\n"
        assert 50 <= int(lab.shell(name, "df -m / | tail -1").split()[1]) <= 64
        found = json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)
        assert lab.is_settled(HOST, {key: found[key] for key in ("apiVersion", "kind", "metadata", "spec")})
    lab.shell("web1", "head -c 30000000 /dev/urandom > /srv/large")
    lab.apply(HOST, server("web1", resources={"disk": {"space": "64Mi", "backend": "image"}}))
    assert lab.shell("web2", "ls /srv") == "file\ntwin\n"
