"""What tells servers of one image apart: names that resolve, and machine IDs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.lab import Document, Lab, busybox_image, image, server
from vsprov.store.hosts_file import with_own_name

LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


@pytest.fixture
def box(tmp_path: Path) -> Document:
    return image("box", directory=str(busybox_image(tmp_path / "box")))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{LOCAL}127.0.1.1\tweb\n"),
        ("10.0.0.1 db", "10.0.0.1 db\n127.0.1.1\tweb\n"),
        ("10.0.0.1 db\r\n# a\x0cb\n", "10.0.0.1 db\r\n# a\x0cb\n127.0.1.1\tweb\n"),
        ("127.0.1.1 old\n127.0.1.10 a\n127.0.1.1 older\n", "127.0.1.1\tweb\n127.0.1.10 a\n"),
    ],
)
def test_the_own_name_has_one_line_and_the_others_stay(before: str, after: str) -> None:
    assert with_own_name(before, "web") == after == with_own_name(after, "web")


def test_a_name_with_a_domain_has_its_short_form_beside_it() -> None:
    assert with_own_name("", "web.example.org") == f"{LOCAL}127.0.1.1\tweb.example.org web\n"


def test_localhost_and_the_own_name_resolve_whatever_the_image_has(lab: Lab, box: Document) -> None:
    documents = [box, image(), server("bare", image="box", security={"readOnlyRoot": True}), server("full")]
    lab.converge(*documents)
    for name, address in (("localhost", "127.0.0.1"), ("full", "127.0.1.1")):
        assert address in lab.run("full", "getent", "ahosts", name).stdout
    assert lab.run("bare", "cat", "/etc/hosts").stdout == f"{LOCAL}127.0.1.1\tbare\n"
    assert lab.run("bare", "sh", "-c", "echo x >> /etc/hosts", check=False).returncode != 0
    assert lab.run("full", "stat", "-c", "%U %G %a", "/etc/hosts").stdout == "root root 644\n"


def test_a_change_of_the_name_shows_at_once_and_what_the_server_wrote_stays(lab: Lab) -> None:
    lab.converge(image(), server("a"))
    before = lab.init("a")
    lab.shell("a", "echo '10.0.0.1 db' >> /etc/hosts")
    lab.converge(image(), server("a", hostname="b.example.org"))
    expected = f"{LOCAL}127.0.1.1\tb.example.org b\n10.0.0.1 db\n"
    assert lab.run("a", "cat", "/etc/hosts").stdout == expected
    assert lab.init("a") == before
    lab.vsprov("restart", "a")
    assert lab.run("a", "cat", "/etc/hosts").stdout == expected


def test_a_mount_of_the_manifest_covers_it(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.0.0.1 mine\n")
    mounts = [{"type": "bind", "source": str(tmp_path / "hosts"), "target": "/etc/hosts", "readOnly": True}]
    lab.converge(image(), server("a", mounts=mounts))
    assert lab.run("a", "cat", "/etc/hosts").stdout == "10.0.0.1 mine\n"


def test_every_server_has_a_machine_id_of_its_own_that_stays(lab: Lab, box: Document) -> None:
    lab.converge(box, image(), server("bare", image="box", security={"readOnlyRoot": True}), server("full"))
    ids = {name: lab.run(name, "cat", "/etc/machine-id").stdout for name in ("bare", "full")}
    host = Path("/etc/machine-id")
    assert len({*ids.values(), host.read_text() if host.exists() else ""}) == 3
    assert all(re.fullmatch(r"[0-9a-f]{32}\n", each) for each in ids.values())
    assert lab.run("full", "stat", "-c", "%U %a", "/etc/machine-id").stdout == "root 444\n"
    assert lab.run("full", "sh", "-c", "echo x > /etc/machine-id", check=False).returncode != 0
    (lab.directory("full") / "server.json").write_text("{}")
    lab.converge(box, image(), server("bare", image="box", security={"readOnlyRoot": True}), server("full"))
    lab.vsprov("restart", "full")
    assert lab.run("full", "cat", "/etc/machine-id").stdout == ids["full"]
