"""Servers with interfaces know their own addresses, their peers and name servers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.networks import HOST, NetworkLab, idle, network
from tests.lab import Document, busybox_image, image
from vsprov.store.managed_file import BEGIN, END

LAN = network("lan", "10.20.0.0/24", "fd20::/64", domain="lan.example")
BACK = network("back", "10.21.0.0/24")
SHUT = network("shut", "10.22.0.0/24", isolated=True)
DNS = {"nameservers": ["192.0.2.53", "2001:db8::53"], "search": ["example.org"], "options": ["ndots:2"]}


def on(network: str, *addresses: str, name: str = "eth0") -> Document:
    return {"name": name, "network": network, "addresses": list(addresses), "gateway": name == "eth0"}


WEB = idle("web", on("lan", "10.20.0.2", "fd20::2"), dns=DNS)
DB = idle(
    "db", on("lan", "10.20.0.3"), on("back", "10.21.0.3", name="eth1"), hostname="db.example.org", dns=DNS
)
LONE = idle("lone", on("shut", "10.22.0.2"), dns=DNS)
OTHER = idle("other", on("shut", "10.22.0.3"), dns=DNS)


@pytest.fixture
def net(shared_net: NetworkLab) -> NetworkLab:
    shared_net.lab.converge(HOST, LAN, BACK, SHUT, WEB, DB, LONE, OTHER)
    return shared_net


def part(net: NetworkLab, server: str, file: str = "hosts") -> list[str]:
    """The lines of a file in a server that vsprov keeps up to date."""
    text = net.lab.run(server, "cat", f"/etc/{file}").stdout
    return text.partition(f"{BEGIN}\n")[2].partition(f"{END}\n")[0].splitlines()


def resolved(net: NetworkLab, server: str, name: str) -> set[str]:
    """The addresses that a name has in a server."""
    return {
        line.split()[0]
        for line in net.lab.run(server, "getent", "-s", "files", "ahosts", name).stdout.splitlines()
    }


@pytest.mark.vm_subset
def test_own_names_and_those_of_peers_resolve_to_their_addresses(net: NetworkLab) -> None:
    for name in ("web", "web.lan.example"):
        assert resolved(net, "web", name) == resolved(net, "db", name) == {"10.20.0.2", "fd20::2"}
    assert resolved(net, "db", "db.example.org") == {"10.20.0.3", "10.21.0.3"}
    assert resolved(net, "web", "db") == {"10.20.0.3"}
    assert resolved(net, "web", "localhost") & {"127.0.0.1", "::1"}
    assert net.lab.run("web", "getent", "-s", "files", "hosts", "lone", check=False).returncode == 2
    assert net.lab.run("db", "hostname", "-f").stdout == "db.example.org\n"
    assert net.lab.run("db", "cat", "/etc/hostname").stdout == "db.example.org\n"


def test_the_first_interface_of_a_running_server_gives_it_all_names(net: NetworkLab) -> None:
    net.lab.converge(HOST, idle("late"))
    before = net.lab.init("late")
    documents = (HOST, LAN, BACK, SHUT, WEB, DB, LONE, OTHER)
    late = idle("late", on("lan", "10.20.0.7"), dns=DNS)
    net.lab.converge(*documents, late)
    assert part(net, "late", "resolv.conf")[0] == "nameserver 192.0.2.53"
    assert net.lab.run("late", "cat", "/etc/hostname").stdout == "late\n"
    net.lab.converge(*documents, idle("late"))
    net.lab.converge(*documents, late)  # without interfaces for a while, it still has the files
    assert net.lab.init("late") == before
    net.lab.vsprov("destroy", "-y", "-", input=json.dumps(late))


def test_servers_of_an_isolated_network_do_not_know_each_other(net: NetworkLab) -> None:
    assert part(net, "lone") == ["10.22.0.2\tlone"]


def test_resolv_conf_is_what_the_server_asks_for(net: NetworkLab) -> None:
    expected = ["nameserver 192.0.2.53", "nameserver 2001:db8::53", "search example.org", "options ndots:2"]
    assert part(net, "web", "resolv.conf") == expected


def test_all_of_it_changes_live_and_what_servers_wrote_stays(net: NetworkLab) -> None:
    before = net.lab.init("web")
    net.lab.shell("web", "echo '192.0.2.9 mine' >> /etc/hosts; echo '# own' >> /etc/resolv.conf")
    web = idle("web", on("lan", "10.20.0.2"), hostname="www", dns={"nameservers": ["192.0.2.54"]})
    documents = (HOST, LAN, BACK, SHUT, web, idle("new", on("lan", "10.20.0.4"), dns=DNS), LONE, OTHER)
    net.lab.converge(*documents)
    assert net.lab.init("web") == before
    assert resolved(net, "web", "new") == {"10.20.0.4"}
    assert resolved(net, "web", "www") == {"10.20.0.2"}
    assert part(net, "web", "resolv.conf")[0] == "nameserver 192.0.2.54"
    assert "# own" in net.lab.run("web", "cat", "/etc/resolv.conf").stdout
    assert net.lab.run("web", "cat", "/etc/hostname").stdout == "www\n"
    assert resolved(net, "web", "mine") == {"192.0.2.9"}
    net.lab.vsprov("restart", "web")
    assert resolved(net, "web", "mine") == {"192.0.2.9"}


@pytest.mark.parametrize(
    "script",
    [
        ": > /etc/hosts; : > /etc/resolv.conf; : > /etc/hostname",
        "sed 's/10.20.0.3/10.66.6.6/' /etc/hosts > /tmp/h; cat /tmp/h > /etc/hosts",
        f"grep -v '{END}' /etc/hosts > /tmp/h; cat /tmp/h > /etc/hosts",
        "truncate -s 8G /etc/hostname",
        "yes '# vsprov: the lines up to its next comment are overwritten' | head -c 3000000 > /etc/hosts",
        "chmod 0 /etc/hosts; head -c 3000000 /dev/urandom > /etc/hosts",
    ],
)
def test_what_a_server_does_to_its_files_is_shown_and_repaired(net: NetworkLab, script: str) -> None:
    expected = {file: part(net, "web", file) for file in ("hosts", "resolv.conf")}
    net.lab.shell("web", script)
    documents = (HOST, LAN, BACK, SHUT, WEB, DB, LONE, OTHER)
    assert any(path.endswith("/Server~1web: status/names") for path in net.lab.differences(*documents))
    net.lab.converge(*documents)
    assert {file: part(net, "web", file) for file in expected} == expected
    assert os.stat(net.lab.directory("web") / "hosts").st_size <= 2 << 20
    assert net.lab.run("web", "cat", "/etc/hostname").stdout == "web\n"


def test_no_more_than_a_mebibyte_of_what_a_server_writes_is_read_or_kept(net: NetworkLab) -> None:
    net.lab.shell("web", "truncate -s 8G /etc/hosts")
    net.lab.converge(HOST, LAN, BACK, SHUT, WEB, DB, LONE, OTHER, idle("late", on("lan", "auto"), dns=DNS))
    assert os.stat(net.lab.directory("web") / "hosts").st_size < 2 << 20
    assert len(resolved(net, "web", "late")) == 2  # one of each family
    net.lab.shell("web", ": > /etc/hosts")


def test_a_link_of_the_image_is_replaced_and_a_mount_of_the_manifest_wins(
    net: NetworkLab, tmp_path: Path
) -> None:
    box = busybox_image(tmp_path / "box")
    (box / "etc").mkdir(exist_ok=True)
    (box / "etc" / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (tmp_path / "hosts").write_text("192.0.2.1 given\n")
    mounts = [
        {"type": "tmpfs", "target": "/run"},
        {"type": "bind", "source": str(tmp_path / "hosts"), "target": "/etc/hosts", "readOnly": True},
    ]
    linked = idle("linked", on("lan", "10.20.0.9"), dns=DNS, image="box", mounts=mounts)
    net.lab.converge(HOST, image("box", directory=str(box)), LAN, linked)
    assert part(net, "linked", "resolv.conf")[0] == "nameserver 192.0.2.53"
    assert net.lab.run("linked", "cat", "/etc/hosts").stdout == "192.0.2.1 given\n"
