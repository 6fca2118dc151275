"""clone: a server with the spec and the files of another one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.lab import Document, Lab, image, server
from vsprov.kernel import cgroup

HOST = image()


def base(lab: Lab, name: str) -> int:
    return os.stat(lab.directory(name) / "work").st_uid


def manifest(lab: Lab, name: str) -> Document:
    found: Document = json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)
    return {key: found[key] for key in ("apiVersion", "kind", "metadata", "spec")}


@pytest.mark.vm_subset
def test_a_clone_has_the_files_in_ids_of_its_own_and_both_go_their_ways(lab: Lab) -> None:
    lab.apply(HOST, server("web1", labels={"tier": "web"}, resources={"pids": {"max": 50}}))
    first = lab.init("web1")
    lab.shell("web1", "cd /srv; echo one > file; ln file twin; chown 33:34 file; rm /etc/nsswitch.conf")
    lab.vsprov("clone", "web1", "web2")
    assert lab.init("web1") == first and lab.processes("web2") == []
    lab.vsprov("start", "web2")
    assert base(lab, "web2") != base(lab, "web1")
    assert lab.shell("web2", "cat /srv/twin; stat -c %u:%g:%h /srv/file; hostname") == "one\n33:34:2\nweb2\n"
    assert lab.shell("web2", "ls /etc/nsswitch.conf 2>/dev/null || echo none") == "none\n"
    status = os.stat(lab.directory("web2") / "upper/srv/file")
    assert (status.st_uid, status.st_gid) == (base(lab, "web2") + 33, base(lab, "web2") + 34)
    assert lab.limit("web2", "pids.max") == "50"
    lab.shell("web2", "echo two > /srv/file")
    assert lab.shell("web1", "cat /srv/file") == "one\n"
    found = manifest(lab, "web2")
    assert found["metadata"]["labels"] == {"tier": "web"}
    lab.vsprov("delete", "server", "web1", "-y")
    assert lab.is_settled(HOST, found)
    assert lab.shell("web2", "cat /srv/file") == "two\n"


def test_a_clone_of_a_snapshot_has_the_files_of_then(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.shell("web1", "echo old > /srv/file")
    lab.vsprov("snapshot", "create", "web1", "before")
    lab.shell("web1", "echo new > /srv/file")
    lab.vsprov("clone", "web1", "web2", "--snapshot", "before")
    lab.vsprov("start", "web2")
    assert lab.shell("web2", "cat /srv/file") == "old\n"
    assert json.loads(lab.vsprov("snapshot", "ls", "web2", "-o", "json").stdout)["items"] == []


def test_a_clone_starts_with_the_host_once_it_was_started(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.vsprov("clone", "web1", "web2")
    lab.vsprov("boot")
    assert lab.processes("web2") == []
    lab.vsprov("start", "web2")
    assert os.listxattr(lab.directory("web2")).count("trusted.vsprov.stopped") == 0
    assert lab.is_settled(HOST, server("web1"), manifest(lab, "web2"))


@pytest.mark.requires("nft")
def test_a_clone_gets_other_addresses_and_publishes_no_ports(lab: Lab) -> None:
    net: Document = {
        "apiVersion": "vsprov/v1",
        "kind": "Network",
        "metadata": {"name": "lan"},
        "spec": {"type": "bridge", "subnets": ["10.231.77.0/24"]},
    }
    one = {"name": "eth0", "network": "lan", "addresses": ["10.231.77.9/24"], "mac": "02:00:00:00:00:09"}
    lab.apply(HOST, net, server("web1", interfaces=[one], ports=["127.0.0.1:48765:80"]))
    done = lab.vsprov("clone", "web1", "web2")
    assert "interface eth0: its addresses are chosen automatically" in done.stderr
    assert "publishes no ports: those of Server/web1 are taken" in done.stderr
    lab.vsprov("start", "web2")
    addresses = lab.shell("web2", "cat /proc/net/fib_trie")
    assert "10.231.77.9" not in addresses and "10.231.77." in addresses
    lab.vsprov("destroy", "--all", "-y")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("web1", "web1"), 1, "Server/web1: clone to web1: Server/web1 exists"),
        (("web1", "../x"), 64, "not a name that a server can have"),
        (("nobody", "web2"), 1, "Server/nobody"),
        (("web1", "web2", "--snapshot", "none"), 1, "Server/web1: no snapshot none: it has none"),
    ],
)
def test_what_cannot_be_cloned_changes_nothing(
    shared_lab: Lab, words: tuple[str, ...], code: int, message: str
) -> None:
    if not shared_lab.directory("web1").exists():
        shared_lab.apply(HOST, server("web1"))
    done = shared_lab.vsprov("clone", *words, check=False)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert sorted(path.name for path in shared_lab.directory("x").parent.iterdir()) == ["web1"]


def test_a_clone_that_fails_leaves_nothing_and_the_server_runs(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    first = lab.init("web1")
    upper = lab.directory("web1") / "upper"
    deep = "/".join(["d"] * 300)
    (upper / deep).mkdir(parents=True)
    done = lab.vsprov("clone", "web1", "web2", check=False)
    assert done.returncode == 1 and "lies too deep" in done.stderr
    assert lab.init("web1") == first and not cgroup.frozen(str(lab.group("web1")))
    assert sorted(path.name for path in Path(lab.vsprov.root / "servers").iterdir()) == ["web1"]
    assert not lab.group("web2").exists()
