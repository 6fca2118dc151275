"""Every example does what it says: it is applied, comes back from the kernel as it was, leaves nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import archives, registry
from tests.e2e.networks import network_lab
from tests.features import requires
from tests.instance import CHECKOUT, own_instance
from tests.lab import Lab, wait_until
from tests.world import FAR, HOST4, IMPATIENCE, OUTSIDE, UPLINK, ask, run

FOLDER = CHECKOUT / "manifests/examples"
EXAMPLES = sorted(path.name for path in FOLDER.iterdir() if path.name.endswith((".yaml", ".yaml.j2")))
# What is not of this machine alone: packages from a mirror, an image from a registry.
BOOTSTRAP, NGINX, OCI, SSH = "bootstrap.yaml", "nginx.yaml", "oci.yaml.j2", "debian-ssh.yaml"
LAN = "lan.yaml.j2"
DATABASE = "database.yaml"
NETWORKS = [name for name in EXAMPLES if "kind: Network" in (FOLDER / name).read_text()]
FETCH = """
import sys, urllib.request as it
with it.build_opener(it.ProxyHandler({})).open(sys.argv[1], timeout=20) as answer:
    print(answer.read().decode())
"""
# The addresses of the LAN that a test makes; on the host it begins at `UPLINK`.
ON_LAN = {"parent": UPLINK, "subnet": "192.0.2.0/24", "address": "192.0.2.50", "router": OUTSIDE}
LONGEST = 900.0  # seconds, for packages over a slow line


@pytest.fixture
def busybox(tmp_path: Path) -> Iterator[str]:
    """The address of a registry on loopback, with the image of the example in it."""
    requires("busybox", "docker_registry", "skopeo")
    program = shutil.which("busybox")
    assert program is not None
    commands = [archives.link(f"bin/{name}", "busybox") for name in ("sh", "id", "pwd", "sleep")]
    layer = archives.packed(
        archives.folder("bin"),
        archives.member("bin/busybox", Path(program).read_bytes(), mode=0o755),
        *commands,
        archives.folder("tmp", mode=0o1777),
    )
    layout = tmp_path / "layout"
    config = {"Cmd": ["sh"], "Env": ["PATH=/usr/bin:/bin", "GREETING=none"]}
    registry.named(layout, busybox=registry.image(layout, layer, config=config))
    with registry.running(tmp_path / "registry") as running:
        running.push(layout, "library/busybox:1.36", "busybox")
        yield f"{running.host}/library"


def arguments(name: str) -> list[str | Path]:
    values = FOLDER / name.replace(".yaml.j2", ".values")
    return [FOLDER / name, *(("--values", values) if values.suffix == ".values" and values.exists() else ())]


def on_lan() -> list[str]:
    """The words of a command line with `ON_LAN`."""
    return [word for key, text in ON_LAN.items() for word in ("--set", f"{key}={text}")]


def needs(name: str, request: pytest.FixtureRequest) -> list[str]:
    """Further words of the command line."""
    return ["--set", f"registry={request.getfixturevalue('busybox')}"] if name == OCI else []


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in (BOOTSTRAP, *NETWORKS)])
@pytest.mark.bare_debian
def test_an_example_is_applied_read_back_and_removed(
    lab: Lab, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    is_applied_read_back_and_removed(lab, tmp_path, [*arguments(name), *needs(name, request)])


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in (NGINX, SSH)])
def test_an_example_with_networks_is_applied_read_back_and_removed(tmp_path: Path, name: str) -> None:
    if name == LAN:
        requires("macvlan")
    with network_lab() as net:
        is_applied_read_back_and_removed(
            net.lab, tmp_path, [*arguments(name), *(on_lan() if name == LAN else ())]
        )


@pytest.mark.slow
@pytest.mark.bare_debian
@pytest.mark.requires("mmdebstrap")
@pytest.mark.usefixtures("packages")
def test_the_example_that_installs_packages_is_applied_read_back_and_removed(
    lab: Lab, tmp_path: Path
) -> None:
    is_applied_read_back_and_removed(lab, tmp_path, arguments(BOOTSTRAP))


@pytest.mark.slow
@pytest.mark.requires("mmdebstrap")
@pytest.mark.usefixtures("packages")
def test_the_shop_counts_visits_from_everywhere_and_shows_its_database_to_nobody(tmp_path: Path) -> None:
    bare = tmp_path / "images.yaml"
    bare.write_text(
        "---".join(text for text in (FOLDER / NGINX).read_text().split("---") if "kind: Image" in text)
    )
    with network_lab() as net:
        mirror = replace(net.lab.vsprov, network=None)  # the host of the lab has no mirror
        mirror("apply", "-y", bare, timeout=LONGEST)
        net.lab.vsprov("apply", "-y", FOLDER / NGINX)
        first, other = (f"http://{address}:8088/" for address in ("127.0.0.1", HOST4))
        net.lab.wait_until(lambda: "visit" in net.host("python3", "-c", FETCH, first, check=False))
        count = int(net.host("python3", "-c", FETCH, first).removeprefix("visit "))
        assert run(net.world.outside, "python3", "-c", FETCH, other) == f"visit {count + 1}\n\n"
        for server, port in (("nginx1", 6379), ("redis1", 8000)):
            asked = "redis1" if port == 6379 else "app1"
            assert net.ask(server, "tcp", asked, port, IMPATIENCE) == "silence"
        local = tmp_path / "local.yaml"  # as its page says
        local.write_text((FOLDER / NGINX).read_text().replace('"8088:80"', '"127.0.0.1:8088:80"'))
        before = net.lab.inits("nginx1", "app1", "redis1")
        changed = net.lab.vsprov("apply", "-y", local).stdout
        assert "spec.ports: - 8088:80/tcp, + 127.0.0.1:8088:80/tcp (live)" in changed
        assert net.lab.inits("nginx1", "app1", "redis1") == before
        assert net.host("python3", "-c", FETCH, first) == f"visit {count + 2}\n\n"
        assert ask(net.world.outside, "tcp", HOST4, 8088) == "refused"
        is_applied_read_back_and_removed(net.lab, tmp_path, [FOLDER / NGINX])


@pytest.mark.slow
@pytest.mark.requires("mmdebstrap", "ssh")
@pytest.mark.usefixtures("packages")
def test_a_user_logs_in_to_the_debian_of_the_example_by_ssh(tmp_path: Path) -> None:
    bare = tmp_path / "images.yaml"
    bare.write_text((FOLDER / SSH).read_text().split("---")[0])
    with network_lab() as net:
        mirror = replace(net.lab.vsprov, network=None)  # the host of the lab has no mirror
        mirror("apply", "-y", bare, timeout=LONGEST)
        net.lab.vsprov("apply", "-y", FOLDER / SSH)
        net.host("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key"))
        script = "mkdir -m 700 -p /root/.ssh && cat > /root/.ssh/authorized_keys"
        key = (tmp_path / "key.pub").read_text()
        net.lab.vsprov("exec", "ssh1", "--", "sh", "-c", script, input=key)
        options = [f"IdentityFile={tmp_path}/key", "UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no"]
        words = [word for option in options for word in ("-o", option)]
        login = ("ssh", "-F", "none", "-q", *words, "-p", "2222", "root@127.0.0.1")
        state = "systemctl is-system-running"
        net.lab.wait_until(lambda: net.host(*login, state, check=False).strip() == "running")
        assert net.host(*login, "echo $XDG_RUNTIME_DIR; hostname").splitlines() == ["/run/user/0", "ssh1"]
        is_applied_read_back_and_removed(net.lab, tmp_path, [FOLDER / SSH])


def is_applied_read_back_and_removed(lab: Lab, tmp_path: Path, given: list[str | Path]) -> None:
    vsprov = lab.vsprov
    vsprov("validate", *given)
    assert vsprov("validate", *given).stderr == ""  # no warning either
    vsprov("apply", "-y", *given, timeout=LONGEST)
    again = vsprov("plan", "--detailed-exitcode", *given)
    assert "Nothing to do" in again.stdout
    read_back = tmp_path / "read-back.yaml"
    read_back.write_text(vsprov("get", "-o", "yaml").stdout)
    back = vsprov("plan", "--detailed-exitcode", read_back, check=False)
    assert back.returncode == 0, back.stdout
    verified = vsprov("image", "verify").stdout.splitlines()
    assert verified and all(line.endswith(": ok") for line in verified)
    vsprov("destroy", "-y", *given)
    for name in vsprov("get", "volumes", "-o", "name").stdout.split():  # they are kept, with their data
        unprotected = read_back.read_text().replace("vsprov/deletion: prevent", "note: unprotected")
        volumes = [each for each in unprotected.split("---\n") if "kind: Volume" in each]
        vsprov("apply", "-y", "-", input="---\n".join(volumes))
        vsprov("delete", name, "-y")
    assert vsprov.left() == []


def test_the_quickstart_is_three_servers_of_the_hosts_usr_two_quotas_and_a_network_on_which_two_talk() -> (
    None
):
    kinds = [
        line for line in (FOLDER / "quickstart.yaml").read_text().splitlines() if line.startswith("kind: ")
    ]
    assert sorted(kinds) == [
        "kind: Image",
        "kind: Network",
        *["kind: Quota"] * 2,
        *["kind: Server"] * 3,
    ]
    with network_lab() as net:
        lab = net.lab
        lab.vsprov("apply", "-y", FOLDER / "quickstart.yaml")
        names = ("frontend/web1", "frontend/web2", "db1")
        assert len(lab.inits(*names)) == 3
        for name in names:
            assert (lab.root(name) / "usr/bin/env").samefile("/usr/bin/env") or (
                lab.root(name) / "usr"
            ).is_dir()
        log = "hello from web1, where I am pid 1\ndb1 answers\n"
        lab.wait_until(lambda: lab.console("web1") == log)


@pytest.mark.bare_debian
def test_servers_of_the_registry_example_do_what_the_image_and_their_manifest_say(
    lab: Lab, busybox: str
) -> None:
    lab.vsprov("apply", "-y", FOLDER / OCI, "--set", f"registry={busybox}")
    cmdline = (lab.root("busybox1") / "proc/1/cmdline").read_bytes()
    assert cmdline.split(b"\0") == [b"sleep", b"1000000", b""]
    assert lab.shell("busybox1", 'echo "$GREETING $PATH"') == "hello /usr/bin:/bin\n"
    lab.wait_until(lambda: lab.console("busybox2") == "uid=1000 gid=1000\n/tmp\n")


def test_the_server_of_the_build_example_runs_what_its_image_says_on_what_the_steps_made(lab: Lab) -> None:
    lab.vsprov("apply", "-y", FOLDER / "build.yaml")
    page = (FOLDER / "site/index.html").read_text()
    lab.wait_until(lambda: lab.console("site1") == page)
    root = lab.root("site1")
    assert (root / "etc/site.conf").read_text() == "root=/srv/site\nlisten=8080\n"
    assert (root / "srv/site.sums").read_text().endswith(" /srv/site/index.html\n")
    assert lab.shell("site1", "id -u; pwd; stat -c %u:%g:%a index.html") == "33\n/srv/site\n33:33:644\n"


def test_the_server_of_the_moving_example_counts_on_where_it_is_moved(lab: Lab, tmp_path: Path) -> None:
    lab.vsprov("apply", "-y", FOLDER / "move.yaml")
    lab.wait_until(lambda: lab.console("mover") == "1\n1\n")
    lab.vsprov("stop", "mover")
    lab.vsprov("export", "mover", tmp_path / "mover")
    with own_instance() as instance:
        new = Lab(instance)
        new.vsprov("import", tmp_path / "mover")
        new.vsprov("start", "mover")
        new.wait_until(lambda: new.console("mover") == "2\n2\n")
        assert "Nothing to do" in new.vsprov("plan", FOLDER / "move.yaml").stdout


def test_servers_of_the_network_example_talk_and_the_host_reaches_the_published_port() -> None:
    with network_lab() as net:
        net.lab.vsprov("apply", "-y", FOLDER / "network.yaml")
        log = net.lab.directory("network-client") / "console.log"
        wait_until(lambda: log.exists() and log.read_text() == "network-web answers\n")
        assert "Directory listing for /" in net.host("python3", "-c", FETCH, "http://127.0.0.1:8080/")
        # Nothing listens there: without a filter, it would be refused.
        assert net.ask("network-client", "tcp", "10.86.0.10", 81, IMPATIENCE) == "silence"


def test_tenants_of_the_example_see_only_whom_they_may() -> None:
    red, single = "10.88.1.10", "10.88.2.10"
    with network_lab() as net, net.world.echo_outside():
        net.lab.vsprov("apply", "-y", FOLDER / "tenants.yaml")
        for server, address in (("red1", red), ("single2", single)):
            fetch = ("python3", "-c", FETCH, f"http://{address}:8000/")
            net.lab.wait_until(
                lambda server=server, fetch=fetch: net.lab.run(server, *fetch, check=False).returncode == 0
            )
        for server in ("red2", "monitor"):
            page = net.lab.run(server, "python3", "-c", FETCH, f"http://{red}:8000/").stdout
            assert "Directory listing for /" in page
        assert net.ask("red2", "tcp", "red1", 81) == "refused"  # it got there, and nothing listens
        for server, address, port in (
            ("monitor", red, 81),
            ("single1", red, 8000),
            ("red2", single, 8000),
            ("single1", single, 8000),
        ):
            assert net.ask(server, "tcp", address, port, IMPATIENCE) == "silence"
        for server in ("red1", "single1"):
            assert net.ask(server, "tcp", FAR) == HOST4


def test_the_server_of_the_lan_example_is_a_machine_on_the_lan() -> None:
    requires("macvlan")
    with network_lab() as net:
        net.lab.vsprov("apply", "-y", FOLDER / LAN, *on_lan())
        fetch = ("python3", "-c", FETCH, f"http://{ON_LAN['address']}/")
        wait_until(lambda: "Directory listing for /" in run(net.world.outside, *fetch, check=False))
        assert net.lab.shell("lan1", "grep ^nameserver /etc/resolv.conf") == f"nameserver {OUTSIDE}\n"
        # The kernel does not connect the host with a macvlan on its own link.
        assert ask(net.world.host, "tcp", ON_LAN["address"], 80, IMPATIENCE) in ("silence", "unreachable")


def test_all_examples_can_be_had_at_once(tmp_path: Path) -> None:
    """No name is used twice among them."""
    with network_lab() as net:
        can_be_had_at_once(net.lab, tmp_path)


def can_be_had_at_once(lab: Lab, tmp_path: Path) -> None:
    values = ("--values", FOLDER / "template.values")
    lab.vsprov("validate", FOLDER, *values)
    local = tmp_path / "examples"
    shutil.copytree(FOLDER, local, ignore=shutil.ignore_patterns(BOOTSTRAP, NGINX, OCI, SSH))
    given = (local, *values, *on_lan())
    lab.vsprov("apply", "-y", *given)
    assert "Nothing to do" in lab.vsprov("plan", *given).stdout
    # Its volume could not be removed otherwise.
    database = local / DATABASE
    database.write_text(re.sub("(?m)^  annotations:.*$", "", database.read_text()))
    lab.vsprov("apply", "-y", *given)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_begins_with_what_it_shows(name: str) -> None:
    assert (FOLDER / name).read_text().startswith(("# ", "{# "))
