"""snapshot create, ls, restore and rm."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.e2e.verbs import on_a_terminal
from tests.lab import Document, Lab, image, server

HOST = image()
COUNT = "cd /srv; i=0; while :; do i=$((i+1)); for f in one two; do echo $i > .n; mv .n $f; done; done"


def snapshots(lab: Lab, *names: str) -> list[tuple[str, str]]:
    items = json.loads(lab.vsprov("snapshot", "ls", *names, "-o", "json").stdout)["items"]
    return [(each["server"], each["name"]) for each in items]


def folder(lab: Lab, name: str, snapshot: str) -> Path:
    return lab.directory(name) / "snapshots" / snapshot


def test_a_server_that_runs_gets_back_what_it_had_written_and_restarts(lab: Lab) -> None:
    lab.apply(HOST, server("web1"), server("other"))
    other, first = lab.init("other"), lab.init("web1")
    lab.shell(
        "web1", "cd /srv; echo old > file; ln file twin; chown 33:33 file; mkdir dir; rm /etc/nsswitch.conf"
    )
    done = lab.vsprov("snapshot", "create", "web1", "before")
    assert re.fullmatch(r"Server/web1: created snapshot before, [\d.]+Ki\n", done.stderr)
    assert lab.init("web1") == first
    lab.shell("web1", "cd /srv; echo new > twin; rm -r dir; touch /etc/nsswitch.conf; touch /etc/added")
    lab.vsprov("snapshot", "restore", "web1", "before", "-y")
    assert lab.init("web1") != first and lab.init("other") == other
    assert lab.shell("web1", "cd /srv; cat file; stat -c %u:%h twin; ls -d dir") == "old\n33:2\ndir\n"
    assert lab.shell("web1", "ls /etc/nsswitch.conf /etc/added 2>/dev/null || echo none") == "none\n"
    assert lab.is_settled(HOST, server("web1"), server("other"))
    assert snapshots(lab) == [("web1", "before")]  # it can be restored again
    lab.shell("web1", "rm /srv/file")
    lab.vsprov("snapshot", "restore", "web1", "before", "-y")
    assert lab.shell("web1", "cat /srv/file") == "old\n"


@pytest.mark.vm_subset
def test_a_snapshot_shows_one_moment_of_a_server_that_writes(lab: Lab) -> None:
    lab.apply(HOST, server("busy", "/bin/sh", "-c", COUNT))
    lab.wait_until(lambda: (lab.directory("busy") / "upper/srv/two").exists())
    for number in range(5):
        lab.vsprov("snapshot", "create", "busy", f"s{number}")
        srv = folder(lab, "busy", f"s{number}") / "upper/srv"
        assert int((srv / "one").read_text()) - int((srv / "two").read_text()) in (0, 1)
        before = (lab.directory("busy") / "upper/srv/one").read_text()
        lab.wait_until(lambda seen=before: (lab.directory("busy") / "upper/srv/one").read_text() != seen)


def test_a_stopped_server_stays_stopped_and_starts_with_what_it_gets_back(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.shell("web1", "echo old > /srv/file")
    lab.vsprov("stop", "web1")
    lab.vsprov("snapshot", "create", "web1", "before")
    lab.vsprov("start", "web1")
    lab.shell("web1", "rm /srv/file")
    lab.vsprov("stop", "web1")
    report = json.loads(lab.vsprov("snapshot", "restore", "web1", "before", "-y", "-o", "json").stdout)
    assert report == {"server": "web1", "snapshot": "before", "restarted": False}
    assert lab.processes("web1") == []
    lab.vsprov("start", "web1")
    assert lab.shell("web1", "cat /srv/file") == "old\n"


def test_a_server_that_was_frozen_stays_frozen(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.vsprov("freeze", "web1")
    lab.vsprov("snapshot", "create", "web1", "cold")
    assert "frozen 1" in (lab.group("web1") / "cgroup.events").read_text()


def test_snapshots_are_listed_by_age_and_removed_by_name(lab: Lab) -> None:
    lab.apply(HOST, server("a"), server("b"))
    made = json.loads(lab.vsprov("snapshot", "create", "a", "-o", "json").stdout)
    assert re.fullmatch(r"\d{8}-\d{6}", made["name"]) and made["bytes"] > 0
    assert (
        made["image"] == json.loads(lab.vsprov("get", "server", "a", "-o", "json").stdout)["status"]["image"]
    )
    lab.vsprov("snapshot", "create", "b", "first")
    lab.vsprov("snapshot", "create", "a", "second")
    assert snapshots(lab) == [("a", made["name"]), ("a", "second"), ("b", "first")]
    assert snapshots(lab, "b") == [("b", "first")]
    table = lab.vsprov("snapshot", "ls", "a").stdout.splitlines()
    assert table[0].split() == ["SERVER", "NAME", "AGE", "SIZE", "IMAGE"] and len(table) == 3
    code, shown = on_a_terminal(lab, "snapshot", "rm", "b", "first", typed="n\n", when="[y/N]")
    assert code == 130 and re.search(r"Remove snapshot first of Server/b, with [\d.]+Ki\? \[y/N\]", shown)
    lab.vsprov("snapshot", "rm", "a", "second", made["name"], "-y")
    assert snapshots(lab) == [("b", "first")]
    assert not folder(lab, "a", "").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("create", "web1", "first"), 1, "Server/web1: snapshot first: exists"),
        (("create", "web1", "../x"), 64, "not a name that a snapshot can have"),
        (("create", "nobody"), 1, "Server/nobody"),
        (("restore", "web1", "none", "-y"), 1, "Server/web1: no snapshot none: it has first"),
        (("restore", "web1", "first"), 64, "cannot ask for confirmation"),
        (("rm", "web1", "first", "none"), 1, "Server/web1: no snapshot none: it has first"),
        (("rm", "web1", "first"), 64, "cannot ask for confirmation"),
        (("ls", "nobody"), 1, "Server/nobody"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    shared_lab: Lab, words: tuple[str, ...], code: int, message: str
) -> None:
    if not shared_lab.directory("web1").exists():
        shared_lab.apply(HOST, server("web1"))
        shared_lab.vsprov("snapshot", "create", "web1", "first")
    before = shared_lab.init("web1")
    done = shared_lab.vsprov("snapshot", *words, check=False)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert snapshots(shared_lab) == [("web1", "first")] and shared_lab.init("web1") == before


def test_the_image_of_a_snapshot_stays_and_the_server_starts_with_it(lab: Lab, tmp_path: Path) -> None:
    """Also when the server has another one since."""
    step = {"write": {"path": "/etc/version", "content": "one"}}
    built = image("built", build={"from": "host", "steps": [step]})
    lab.apply(HOST, built, server("web1", image="built"))
    lab.shell("web1", "echo old > /srv/file")
    lab.vsprov("snapshot", "create", "web1", "before")
    step["write"]["content"] = "two"
    lab.apply(HOST, built, server("web1", image="built"))
    assert lab.shell("web1", "cat /etc/version; rm /srv/file") == "two"
    lab.apply(HOST, built, server("web1", image="built"))  # which removes what is not used
    done = lab.vsprov("snapshot", "restore", "web1", "before", "-y")
    assert "the snapshot was made with another version of its image" in done.stderr
    assert lab.shell("web1", "cat /etc/version; cat /srv/file") == "oneold\n"
    (change,) = lab.plan(HOST, built, server("web1", image="built"))["resource_changes"]
    assert change["disruption"] == "restart"
    lab.converge(HOST, built, server("web1", image="built"))
    assert lab.shell("web1", "cat /etc/version; cat /srv/file") == "twoold\n"


def test_without_the_image_of_a_snapshot_it_is_not_restored(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.vsprov("snapshot", "create", "web1", "before")
    record = folder(lab, "web1", "before") / "snapshot.json"
    from vsprov.store.disk import sealed

    content = sealed.unseal(record.read_bytes())
    record.write_bytes(sealed.seal({**content, "image": "0" * 64}))
    before = lab.init("web1")
    done = lab.vsprov("snapshot", "restore", "web1", "before", "-y", check=False)
    assert done.returncode == 1 and "which is no longer in the store" in done.stderr
    record.write_bytes(sealed.seal({**content, "id_base": 1}))
    done = lab.vsprov("snapshot", "restore", "web1", "before", "-y", check=False)
    assert done.returncode == 1 and "its files belong to other ids" in done.stderr
    record.write_bytes(b"torn")
    done = lab.vsprov("snapshot", "restore", "web1", "before", "-y", check=False)
    assert done.returncode == 1 and "snapshot.json is truncated" in done.stderr
    assert "is truncated" in lab.vsprov("snapshot", "ls").stdout
    assert lab.init("web1") == before
    lab.vsprov("snapshot", "rm", "web1", "before", "-y")


def test_snapshots_are_renamed_and_removed_with_their_server_and_count_as_its_files(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.shell("web1", "head -c 3000000 /dev/urandom > /srv/file")
    lab.vsprov("snapshot", "create", "web1", "before")
    lab.vsprov("rename", "web1", "web2", "-y")
    assert snapshots(lab) == [("web2", "before")]
    lab.shell("web2", "rm /srv/file")
    asked = lab.vsprov("delete", "server", "web2", check=False)
    assert "2940Ki of written files will be lost" in asked.stdout
    lab.vsprov("snapshot", "restore", "web2", "before", "-y")
    assert lab.shell("web2", "stat -c %s /srv/file") == "3000000\n"
    lab.vsprov("delete", "server", "web2", "-y")
    assert not lab.directory("web2").exists()


def test_a_server_that_does_not_start_with_its_snapshot_gets_back_what_it_had(
    lab: Lab, tmp_path: Path
) -> None:
    lab.apply(HOST, server("web1", "/srv/run", state="Stopped"))
    lab.vsprov("snapshot", "create", "web1", "without")
    (tmp_path / "run").write_text("#!/bin/sh\nexec sleep infinity\n")
    (tmp_path / "run").chmod(0o755)
    lab.vsprov("cp", tmp_path / "run", "web1:/srv/run")
    lab.vsprov("start", "web1")
    lab.init("web1")
    done = lab.vsprov("snapshot", "restore", "web1", "without", "-y", check=False)
    assert done.returncode == 1 and "/srv/run" in done.stderr
    assert (lab.directory("web1") / "upper/srv/run").exists()
    lab.vsprov("start", "web1")
    assert lab.init("web1")


def test_an_ephemeral_server_gets_nothing_back(lab: Lab) -> None:
    lab.apply(HOST, server("web1", ephemeral=True))
    lab.vsprov("snapshot", "create", "web1", "before")
    done = lab.vsprov("snapshot", "restore", "web1", "before", "-y", check=False)
    assert done.returncode == 1 and "the server is ephemeral" in done.stderr


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
def test_a_server_whose_disk_is_limited_has_snapshots_and_keeps_its_limit(lab: Lab) -> None:
    limited = server("web1", resources={"disk": {"space": "64Mi", "backend": "image"}})
    lab.apply(HOST, limited)
    lab.shell("web1", "cd /srv; echo old > file; ln file twin; chown 33:33 file; rm /etc/nsswitch.conf")
    lab.vsprov("snapshot", "create", "web1", "before")
    lab.shell("web1", "cd /srv; echo new > file; rm twin; touch /etc/nsswitch.conf")
    lab.vsprov("snapshot", "restore", "web1", "before", "-y")
    assert lab.shell("web1", "cd /srv; cat file; stat -c %u:%h twin") == "old\n33:2\n"
    assert lab.shell("web1", "ls /etc/nsswitch.conf 2>/dev/null || echo none") == "none\n"
    assert 50 <= int(lab.shell("web1", "df -m / | tail -1").split()[1]) <= 64
    assert lab.is_settled(HOST, limited)
    lab.vsprov("stop", "web1")
    lab.vsprov("snapshot", "restore", "web1", "before", "-y")
    lab.vsprov("snapshot", "create", "web1", "stopped")
    lab.vsprov("start", "web1")
    assert lab.shell("web1", "cat /srv/file") == "old\n"
    assert (folder(lab, "web1", "stopped") / "upper/srv/file").read_text() == "old\n"


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
def test_a_snapshot_that_does_not_fit_into_the_limit_is_not_restored(lab: Lab) -> None:
    def limited(space: str) -> Document:
        return server("web1", resources={"disk": {"space": space, "backend": "image"}})

    lab.apply(HOST, limited("128Mi"))
    lab.shell("web1", "head -c 70000000 /dev/urandom > /srv/file")
    lab.vsprov("snapshot", "create", "web1", "large")
    lab.shell("web1", "rm /srv/file")
    lab.apply(HOST, limited("64Mi"))
    before = lab.init("web1")
    done = lab.vsprov("snapshot", "restore", "web1", "large", "-y", check=False)
    assert done.returncode == 1 and "copy srv/file: No space left on device" in done.stderr
    assert lab.init("web1") == before
    assert not [path for path in lab.directory("web1").parent.iterdir() if path.name != "web1"]
