"""export and import: servers that are carried to another instance, or beside themselves."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import zstandard

from tests import shop
from tests.archives import NET_RAW
from tests.e2e.transfers import members, staged
from tests.e2e.verbs import HOST
from tests.lab import Document, Lab, image, mounted, pool, server, volume
from tests.shop import app

WRITING = """
cd /srv; echo one > file; ln file twin; ln -s file link; mkfifo pipe; truncate -s 9M hole; touch .wh.x
chown 33:34 file; chmod 4751 file; chown -h 5:6 link; touch -d @1000000000 file
ln -P link link2; ln pipe pipe2; touch -d @-1.25 .wh.x; touch -d @10413792000.000000001 hole
rm /etc/nsswitch.conf; rm -r /etc/alternatives; mkdir /etc/alternatives
echo kept > /data/v; chown 65535:7 /data/v
"""
COUNT = "i=0; while :; do i=$((i+1)); echo $i > /srv/one; echo $i > /data/two; done"


def base(lab: Lab, name: str) -> int:
    return os.stat(lab.directory(name) / "work").st_uid


@pytest.mark.vm_subset
def test_a_server_is_carried_to_another_instance_with_all_that_it_has_written(
    lab: Lab, other: Lab, tmp_path: Path
) -> None:
    manifest = (
        HOST,
        pool("team", pids={"max": 90}),
        volume("data", mode="0750", owner="33:34"),
        server(
            "web1", labels={"tier": "web"}, resources={"pids": {"max": 50}}, quota="team",
            mounts=[mounted("data")],
        ),
    )  # fmt: skip
    lab.apply(*manifest)
    lab.shell("web1", WRITING)
    upper = lab.directory("web1") / "upper"
    attributes = {"user.note": b"\0\xff", "user.a=b": b"=", "user.a%3Db": b"%3D"}
    for key, value in attributes.items():
        os.setxattr(upper / "srv/file", key, value)
    first, archive = lab.init("team/web1"), tmp_path / "web1.tar.zst"
    machine_id = lab.shell("web1", "cat /etc/machine-id")
    done = lab.vsprov("export", "web1", "-o", archive)
    assert re.fullmatch(
        r"Server/web1: exported \d+ files, [\d.]+Mi, volume data to \S+, [\d.]+Ki\n", done.stderr
    )
    assert lab.init("team/web1") == first
    assert "frozen 0" in (lab.group("team/web1") / "cgroup.events").read_text()
    assert staged(lab) == [] and archive.stat().st_mode & 0o777 == 0o600

    other.vsprov("import", archive)
    assert other.processes("team/web1") == [] and staged(other) == []
    other.vsprov("start", "web1")
    assert base(other, "web1") != base(lab, "web1")
    assert other.shell("web1", "cd /srv; cat twin; stat -c %u:%g:%h:%a:%Y file; readlink link") == (
        "one\n33:34:2:4751:1000000000\nfile\n"
    )
    assert other.shell("web1", "cd /srv; stat -c %F:%s:%b pipe hole; stat -c %u:%g link; ls -A | wc -l") == (
        "fifo:0:0\nregular file:9437184:0\n5:6\n8\n"
    )
    assert other.shell("web1", "cd /srv; stat -c %h link2 pipe2; stat -c %.9Y .wh.x hole") == (
        "2\n2\n-1.250000000\n10413792000.000000001\n"
    )
    assert other.shell("web1", "ls -A /etc/alternatives; ls /etc/nsswitch.conf 2>/dev/null || echo none") == (
        "none\n"
    )
    assert other.shell("web1", "cat /data/v; stat -c %u:%g:%a /data/v /data") == (
        "kept\n65535:7:644\n33:34:750\n"
    )
    assert other.shell("web1", "cat /etc/machine-id") == machine_id
    file = other.directory("web1") / "upper/srv/file"
    assert {
        key: os.getxattr(file, key) for key in os.listxattr(file) if key.startswith("user.")
    } == attributes
    assert other.limit("team/web1", "pids.max") == "50" and other.limit("team", "pids.max") == "90"
    assert other.is_settled(*manifest)


def test_capabilities_and_access_control_lists_belong_to_the_new_ids(
    lab: Lab, other: Lab, tmp_path: Path
) -> None:
    lab.apply(HOST, server("web1"))
    lab.shell("web1", "cp /bin/true /srv/able; mkdir /srv/dir")
    upper = lab.directory("web1") / "upper/srv"
    inside = ("nsenter", "-t", str(lab.init("web1").pid), "-U", "-m", "-S0", "-G0")
    script = f"import os; os.setxattr('/srv/able', 'security.capability', bytes.fromhex('{NET_RAW.hex()}'))"
    subprocess.run([*inside, "python3", "-c", script], check=True)
    entries = [(1, 7, 2**32 - 1), (2, 6, 1000), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1)]

    def packed(shift: int) -> bytes:
        ids = [(tag, rights, number + shift if tag == 2 else number) for tag, rights, number in entries]
        return b"\2\0\0\0" + b"".join(
            tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + number.to_bytes(4, "little")
            for tag, rights, number in ids
        )

    for which in ("access", "default"):
        os.setxattr(upper / "dir", f"system.posix_acl_{which}", packed(base(lab, "web1")))
    lab.vsprov("export", "web1", tmp_path / "web1")
    other.vsprov("import", tmp_path / "web1")
    found, new = other.directory("web1") / "upper/srv", base(other, "web1")
    assert os.getxattr(found / "able", "security.capability")[20:] == new.to_bytes(4, "little")
    for which in ("access", "default"):
        assert os.getxattr(found / "dir", f"system.posix_acl_{which}") == packed(new)
    other.vsprov("start", "web1")
    script = "import os; print(os.getxattr('/srv/able', 'security.capability').hex())"
    assert other.run("web1", "python3", "-c", script).stdout == f"{NET_RAW.hex()}\n"


def test_an_export_shows_one_moment_of_a_server_and_its_volume(lab: Lab, other: Lab, tmp_path: Path) -> None:
    lab.apply(HOST, volume("data"), server("busy", "/bin/sh", "-c", COUNT, mounts=[mounted("data")]))
    two = lab.vsprov.root / "volumes/data/data/two"
    lab.wait_until(two.exists)
    for number in range(3):
        lab.vsprov("export", "busy", tmp_path / str(number))
        other.vsprov("import", tmp_path / str(number), "--name", f"s{number}", "--volume", f"data=d{number}")
        texts = (
            (other.directory(f"s{number}") / "upper/srv/one").read_text(),
            (other.vsprov.root / f"volumes/d{number}/data/two").read_text(),
        )
        one, other_one = (text.strip() for text in texts)
        assert "" in (one, other_one) or int(one) - int(other_one) in (0, 1)  # emptied, then written
        before = two.read_text()
        lab.wait_until(lambda seen=before: two.read_text() != seen)


def test_snapshots_come_along_and_can_be_restored(lab: Lab, other: Lab, tmp_path: Path) -> None:
    lab.apply(HOST, volume("data"), server("web1", mounts=[mounted("data")]))
    lab.shell(
        "web1", "echo old > /srv/file; chown 33 /srv/file; echo old > /data/file; rm /etc/nsswitch.conf"
    )
    lab.vsprov("snapshot", "create", "web1", "before")
    lab.shell("web1", "echo new > /srv/file; echo new > /data/file; touch /etc/nsswitch.conf")
    made = json.loads(lab.vsprov("export", "web1", tmp_path / "web1", "--snapshots", "-o", "json").stdout)
    assert (made["snapshots"], made["volumes"]) == (["before"], ["data"])
    other.vsprov("import", tmp_path / "web1", "--volume", "data=store")
    (found,) = json.loads(other.vsprov("snapshot", "ls", "-o", "json").stdout)["items"]
    (before,) = json.loads(lab.vsprov("snapshot", "ls", "-o", "json").stdout)["items"]
    assert (found["name"], found["problem"], found["createdAt"]) == ("before", None, before["createdAt"])
    other.vsprov("start", "web1")
    assert other.shell("web1", "cat /srv/file /data/file") == "new\nnew\n"
    other.vsprov("snapshot", "restore", "web1", "before", "--volumes", "-y")
    assert other.shell("web1", "cat /srv/file /data/file; stat -c %u /srv/file") == "old\nold\n33\n"
    assert other.shell("web1", "ls /etc/nsswitch.conf 2>/dev/null || echo none") == "none\n"


def test_an_archive_is_a_tar_with_checksums_of_its_parts(lab: Lab, tmp_path: Path) -> None:
    lab.apply(HOST, volume("data"), server("web1", mounts=[mounted("data")]))
    lab.shell("web1", "echo one > /srv/file; rm /etc/nsswitch.conf")
    archive = tmp_path / "web1"
    made = json.loads(lab.vsprov("export", "web1", archive, "-o", "json").stdout)
    assert made["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert made["bytes"] == archive.stat().st_size and made["file"] == str(archive)
    found = members(archive)
    names = list(found)
    assert names[:3] == ["vsprov-export.json", "manifest.yaml", "upper"] and names[-1] == "SHA256SUMS"
    assert found["upper/etc/nsswitch.conf"].ischr() and found["upper/srv/file"].size == 4
    data = zstandard.ZstdDecompressor().stream_reader(archive.read_bytes()).read()
    sums = data[found["SHA256SUMS"].offset_data :][: found["SHA256SUMS"].size].decode().splitlines()
    starts = [found[name].offset for name in ("vsprov-export.json", "manifest.yaml")]
    # tarfile's offset of a member with an extended header is that of the header after it.
    assert sums[0] == f"{hashlib.sha256(data[starts[0] : starts[1]]).hexdigest()}  vsprov-export.json"
    assert [line.split("  ")[1] for line in sums] == [
        "vsprov-export.json",
        "manifest.yaml",
        "upper",
        "volumes/data",
    ]
    header = json.loads(data[found["vsprov-export.json"].offset_data :][: found["vsprov-export.json"].size])
    assert (header["format"], header["server"], header["image"]) == (1, "web1", made["image"])


def test_tar_unpacks_files_with_the_holes_that_they_have(lab: Lab, tmp_path: Path) -> None:
    lab.apply(HOST, server("web1"))
    lab.shell("web1", "cd /srv; truncate -s 9M hole; truncate -s 2M end; echo x >> end")
    lab.shell("web1", "cd /srv; echo x > start; truncate -s 3M start")
    lab.vsprov("export", "web1", tmp_path / "web1")
    subprocess.run(["tar", "--zstd", "-xf", tmp_path / "web1", "-C", tmp_path, "upper/srv"], check=True)
    for name, size, blocks in (("hole", 9 << 20, 0), ("end", (2 << 20) + 2, 8), ("start", 3 << 20, 8)):
        unpacked = tmp_path / "upper/srv" / name
        status = unpacked.stat()
        assert (status.st_size, status.st_blocks) == (size, blocks)
        assert unpacked.read_bytes() == (lab.directory("web1") / "upper/srv" / name).read_bytes()


@pytest.mark.requires("nft")
def test_networks_come_along_and_a_copy_beside_the_original_gets_other_addresses(
    lab: Lab, other: Lab, tmp_path: Path
) -> None:
    net: Document = {
        "apiVersion": "vsprov/v1",
        "kind": "Network",
        "metadata": {"name": "lan"},
        "spec": {"type": "bridge", "subnets": ["10.231.78.0/24"]},
    }
    one = {"name": "eth0", "network": "lan", "addresses": ["10.231.78.9/24"]}
    manifest = (HOST, net, server("web1", interfaces=[one], ports=["127.0.0.1:48766:80"]))
    lab.apply(*manifest)
    lab.vsprov("export", "web1", tmp_path / "web1")
    done = lab.vsprov("import", tmp_path / "web1", "--name", "web2")
    assert "interface eth0: its addresses are chosen automatically" in done.stderr
    assert "publishes no ports: those of Server/web1 are taken" in done.stderr
    lab.vsprov("start", "web2")
    lab.vsprov("destroy", "--all", "-y")
    other.vsprov("import", tmp_path / "web1")
    other.vsprov("start", "web1")
    assert "10.231.78.9" in other.shell("web1", "cat /proc/net/fib_trie")
    assert other.is_settled(*manifest)


def test_a_server_that_depends_on_others_is_imported_without_them(
    lab: Lab, other: Lab, tmp_path: Path
) -> None:
    lab.apply(HOST, server("db1"), server("web1", dependsOn=[{"name": "db1"}]))
    lab.vsprov("export", "web1", tmp_path / "web1")
    other.vsprov("import", tmp_path / "web1")
    lab.vsprov("export", "db1", tmp_path / "db1")
    other.vsprov("import", tmp_path / "db1")
    other.vsprov("start", "db1", "web1")
    other.init("web1"), other.init("db1")
    assert other.is_settled(HOST, server("db1"), server("web1", dependsOn=[{"name": "db1"}]))


# ---- images


@pytest.mark.requires("docker_registry", "skopeo", "busybox")
def test_an_image_is_fetched_by_the_digest_that_the_server_has_whatever_its_tag_leads_to(
    lab: Lab, other: Lab, tmp_path: Path
) -> None:
    with shop.opened(tmp_path / "shop") as market:
        first = market.push("1")
        lab.apply(market.image(), app("web1", init={"user": "0:0"}))
        lab.run("web1", "sh", "-c", "echo one > /tmp/file")
        archive = tmp_path / "web1"
        lab.vsprov("export", "web1", archive)
        market.push("2")
        other.vsprov("import", archive)
        assert shop.digests(other) == {"app": first}
        other.vsprov("start", "web1")
        assert other.run("web1", "cat", "/version", "/tmp/file").stdout == "1one\n"
        other.vsprov("destroy", "--all", "-y")
    done = other.vsprov("import", archive, check=False)
    assert done.returncode == 1 and first in done.stderr and "is not in the store" in done.stderr
    assert not other.vsprov.root.exists()


def test_without_its_image_a_server_is_refused_and_runs_with_another_one_if_asked(
    lab: Lab, other: Lab, tmp_path: Path
) -> None:
    step = {"write": {"path": "/etc/version", "content": "one"}}
    built = image("built", build={"from": "host", "steps": [step]})
    lab.apply(HOST, built, server("web1", image="built"))
    digest = json.loads(lab.vsprov("get", "image", "built", "-o", "json").stdout)["status"]["digest"]
    lab.shell("web1", "echo one > /srv/file")
    archive = tmp_path / "web1"
    lab.vsprov("export", "web1", archive)
    done = other.vsprov("import", archive, check=False)
    assert done.returncode == 1 and "spec.source.build: is read or run on this host" in done.stderr
    done = other.vsprov("import", archive, "--trust", check=False)
    assert done.returncode == 1 and digest in done.stderr and "--image NAME" in done.stderr, done.stderr
    assert not other.vsprov.root.exists()
    step["write"]["content"] = "two"
    other.apply(HOST, built)
    done = other.vsprov("import", archive, check=False)
    assert done.returncode == 1 and f"not {digest}, which Server/web1 was exported with" in done.stderr
    done = other.vsprov("import", archive, "--image", "built")
    assert f"was exported with image {digest.removeprefix('sha256:')[:12]}, and gets built" in done.stderr
    other.vsprov("start", "web1")
    assert other.shell("web1", "cat /srv/file /etc/version") == "one\ntwo"
