"""Servers on images of a registry: what the image brings, and what happens when its tag moves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import registry, shop
from tests.archives import member, packed
from tests.features import requires
from tests.lab import Document, Lab, to_yaml, wait_until
from tests.shop import Shop, app, busybox_layer, version_layer
from vsprov.store.registry import oci_documents

MACHINE = oci_documents.platforms()[0][0]
FOREVER = "while :; do sleep 0.05; done"
BYE = {"Env": ["GREETING=bye", "PATH=/bin"]}


@pytest.fixture(scope="module")
def shop_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    requires("docker_registry", "skopeo", "busybox")
    with shop.opened(tmp_path_factory.mktemp("shop")) as made:
        yield made


@pytest.fixture
def market(shop_of_module: Shop) -> Shop:
    """A shop whose tag app:latest leads to version 1."""
    shop_of_module.push("1")
    return shop_of_module


def seen_by(lab: Lab, name: str) -> str:
    """Which version a server runs on, and the greeting in the environment of commands in it."""
    return lab.run(name, "/bin/sh", "-c", "echo $(cat /version) $GREETING").stdout.strip()


def words(path: str) -> list[str]:
    return Path(path).read_text().rstrip("\0").split("\0")


# -- what an image brings


@pytest.mark.vm_subset
def test_a_server_that_says_nothing_runs_what_its_image_says(lab: Lab, market: Shop) -> None:
    lab.converge(market.image(), app("a"))
    wait_until(lambda: lab.console("a") == "hello\n")
    pid = lab.init("a").pid
    wait_until(lambda: words(f"/proc/{pid}/cmdline") == ["sleep", "1000"])
    assert {"GREETING=hello", "PATH=/bin"} <= set(words(f"/proc/{pid}/environ"))
    assert os.readlink(f"/proc/{pid}/cwd") == "/srv"
    said = lab.run("a", "/bin/sh", "-c", "id -u; id -g; pwd; echo $GREETING $PATH; cat /version").stdout
    assert said.split() == ["1000", "1000", "/srv", "hello", "/bin", "1"]


def test_an_image_as_umoci_configures_it_is_run_the_same(lab: Lab, market: Shop, tmp_path: Path) -> None:
    requires("umoci")
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    market.push("u", "umoci")

    def umoci(*given: str | Path) -> None:
        subprocess.run(["umoci", *map(str, given)], check=True, capture_output=True)

    subprocess.run(
        ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{market.reference('umoci')}",
         f"oci:{layout}:it"], check=True,
    )  # fmt: skip
    umoci("unpack", "--image", f"{layout}:it", bundle)
    (bundle / "rootfs/version").write_text("made by umoci")
    (bundle / "rootfs/root").rmdir()
    umoci("repack", "--image", f"{layout}:it", bundle)
    config = ("--config.cmd", "exec sleep 77", "--config.env", "GREETING=umoci")
    umoci("config", "--image", f"{layout}:it", *config)
    market.registry.push(layout, "app:umoci", "it")
    lab.converge(market.image("umoci"), app("a"))
    assert words(f"/proc/{lab.init('a').pid}/cmdline")[-1] in ("77", "exec sleep 77")
    assert seen_by(lab, "a") == "made by umoci umoci"
    assert lab.run("a", "test", "-e", "/root", check=False).returncode == 1


def test_args_replace_the_command_and_an_own_command_replaces_the_entrypoint_too(
    lab: Lab, market: Shop
) -> None:
    lab.converge(
        market.image(),
        app("args", init={"args": ["exec sleep 2000"]}),
        app("command", init={"command": ["sleep", "3000"]}),
        app("both", init={"command": ["sleep"], "args": ["4000"], "user": "0:0", "env": {"GREETING": "own"}}),
    )
    for name, second in (("args", "2000"), ("command", "3000"), ("both", "4000")):
        pid = lab.init(name).pid
        wait_until(lambda pid=pid, second=second: words(f"/proc/{pid}/cmdline") == ["sleep", second])  # type: ignore[misc]
    said = lab.run("both", "/bin/sh", "-c", "id -u; echo $GREETING; pwd").stdout
    assert said.split() == ["0", "own", "/srv"]


def test_the_signal_that_stops_a_server_is_the_images(lab: Lab, market: Shop) -> None:
    trap = f"trap 'echo stopped by INT; exit 0' INT; {FOREVER}"
    lab.converge(market.image(), app("a", init={"args": [trap]}))
    wait_until(lambda: lab.run("a", "ps").stdout.count("sleep 0.05") > 0)
    lab.vsprov("stop", "a")
    assert lab.console("a") == "stopped by INT\n"


def test_the_second_plan_needs_no_registry(lab: Lab, tmp_path: Path) -> None:
    requires("docker_registry", "skopeo", "busybox")
    with shop.opened(tmp_path) as gone:
        gone.push("1")
        documents = (gone.image(), app("a"))
        lab.converge(*documents)
    before = lab.init("a")
    assert lab.is_settled(*documents)
    lab.apply(*documents)
    assert lab.init("a") == before
    lab.vsprov("restart", "a")
    assert seen_by(lab, "a") == "1 hello"
    said = lab.vsprov("image", "pull", "app", check=False)
    assert said.returncode == 1
    assert f"{gone.reference()}: {gone.host}: Connection refused" in said.stderr
    assert seen_by(lab, "a") == "1 hello"


def test_of_an_image_for_several_machines_the_one_for_this_machine_runs(
    lab: Lab, market: Shop, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    machines = [
        registry.image(layout, busybox_layer(), version_layer(each), architecture=each, config=shop.CONFIG)
        for each in ("s390x", MACHINE)
    ]
    for made, each in zip(machines, ("s390x", MACHINE), strict=True):
        made["platform"] = {"os": "linux", "architecture": each}
    both = registry.index(layout, *machines)
    registry.named(layout, both=both)
    market.registry.push(layout, "app:both", "both", "--multi-arch=all")
    lab.converge(market.image("both"), app("a"))
    assert seen_by(lab, "a") == f"{MACHINE} hello"
    fixed = market.image("both", digest=both["digest"])
    assert lab.differences(fixed, app("a")).keys() <= {"Image/app /spec/source/oci/digest"}
    lab.converge(fixed, app("a"))


# -- a tag that moves


def test_a_moved_tag_changes_nothing_until_it_is_pulled(lab: Lab, market: Shop) -> None:
    market.push("other", "stays")
    market.push("other", "stays")
    still = (market.image("stays", called="still"), app("c", "still"))
    documents = (market.image(), app("a"), app("b"), *still)
    lab.converge(*documents)
    lab.vsprov("exec", "--user", "0", "a", "--", "/bin/sh", "-c", "echo kept >/srv/written")
    first = shop.digests(lab)["app"]
    before, old_layers = lab.inits("a", "b", "c"), shop.layers(lab)
    market.push("2", config=BYE)
    assert lab.is_settled(*documents)
    lab.apply(*documents)
    assert lab.inits("a", "b", "c") == before

    lab.vsprov("image", "pull", "app")
    second = shop.digests(lab)["app"]
    assert first != second
    assert lab.inits("a", "b", "c") == before
    assert seen_by(lab, "a") == "1 hello"  # a command's environment is that of what the server runs on
    assert set(old_layers) < set(shop.layers(lab))
    found = lab.differences(*documents)
    assert found.keys() == {"Server/a /spec/image", "Server/b /spec/image"}
    assert {cost for _, _, cost in found.values()} == {"restart"}

    lab.converge(*documents)
    assert [seen_by(lab, name) for name in "abc"] == ["2 bye", "2 bye", "other hello"]
    assert lab.init("c") == before["c"]
    assert lab.run("a", "cat", "/srv/written").stdout == "kept\n"
    assert not set(old_layers) <= set(shop.layers(lab))  # what only the old image had is gone


def test_servers_restart_one_after_another_and_a_failing_one_stops_the_rest(lab: Lab, market: Shop) -> None:
    documents = (market.image(), app("a"), app("b", init={"command": ["/bin/special"]}), app("c"))
    special = packed(member("bin/special", b"#!/bin/sh\nexec /bin/sleep 1000\n", mode=0o755))
    market.push("1", "latest", busybox_layer(), version_layer("1"), special)
    lab.converge(*documents)
    before = lab.inits("a", "b", "c")
    market.push("2")  # in which b's command is not
    lab.vsprov("image", "pull", "app")
    said = lab.refused(*documents)
    assert "Server/b: " in said and "/bin/special" in said
    assert seen_by(lab, "a") == "2 hello" and lab.init("a") != before["a"]
    assert lab.init("c") == before["c"] and seen_by(lab, "c") == "1 hello"
    assert "Server/c" in said  # and it says that this one was not tried
    mended = (documents[0], app("a"), app("b"), app("c"))
    lab.converge(*mended)
    assert [seen_by(lab, name) for name in "abc"] == ["2 hello"] * 3


def test_an_apply_that_is_killed_between_two_restarts_leaves_servers_on_what_they_run_on(
    lab: Lab, market: Shop, tmp_path: Path
) -> None:
    deaf = {"stopTimeout": "60s", "stopSignal": "INT", "args": [f"trap 'echo told' INT; {FOREVER}"]}
    documents = (market.image(), app("s0", init=deaf), app("s1", init=deaf))
    lab.converge(*documents)
    market.push("2", config=BYE)
    lab.vsprov("image", "pull", "app")
    before, old = lab.inits("s0", "s1"), shop.layers(lab)
    running = subprocess.Popen(
        lab.vsprov.command("apply", "-y", "-"), stdin=subprocess.PIPE, env=lab.vsprov.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert running.stdin is not None
    running.stdin.write(to_yaml(*documents).encode())
    running.stdin.close()
    wait_until(lambda: "told" in lab.console("s0"))
    running.send_signal(signal.SIGKILL)
    assert running.wait(60) == -signal.SIGKILL
    assert lab.init("s1") == before["s1"]
    assert shop.layers(lab) == old
    assert seen_by(lab, "s1") == "1 hello"
    quick = (documents[0], app("s0"), app("s1"))
    for name in ("s0", "s1"):
        lab.vsprov("stop", name, "--timeout", "0s", check=False)
    lab.converge(*quick)
    assert [seen_by(lab, name) for name in ("s0", "s1")] == ["2 bye"] * 2
    assert set(old) - set(shop.layers(lab))


def test_another_tag_with_the_same_digest_restarts_nothing(lab: Lab, market: Shop) -> None:
    lab.converge(market.image(), app("a"))
    before = lab.init("a")
    market.push("1", "v1")
    documents: tuple[Document, ...] = (market.image("v1"), app("a"))
    assert lab.differences(*documents).keys() == {"Image/app /spec/source/oci/ref"}
    lab.converge(*documents)
    assert lab.init("a") == before
    market.push("2", "v2")
    assert "restart" in {cost for _, _, cost in lab.differences(market.image("v2"), app("a")).values()}
    lab.converge(market.image("v2"), app("a"))
    assert seen_by(lab, "a") == "2 hello"


def test_the_registry_is_spoken_to_only_when_it_has_to_be(lab: Lab, tmp_path: Path) -> None:
    """A plan of what is there makes no connection, were the registry slow or someone else's by now."""
    requires("docker_registry", "skopeo", "busybox")
    with shop.opened(tmp_path) as made:
        made.push("1")
        documents = (made.image(), app("a"))
        lab.converge(*documents)
        port = int(made.host.partition(":")[2])
    with socket.create_server(("127.0.0.1", port)) as nobody:
        nobody.setblocking(False)
        assert lab.is_settled(*documents)
        lab.apply(*documents)
        lab.vsprov("image", "ls"), lab.vsprov("get", "-o", "wide"), lab.vsprov("image", "verify")
        with pytest.raises(BlockingIOError):
            nobody.accept()
