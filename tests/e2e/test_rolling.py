"""Changes that restart several servers in batches, and what happens if a server does not become ready."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.e2e.applying import applying
from tests.lab import Document, Lab, image, server, to_yaml, wait_until

FAST = {"interval": "100ms", "timeout": "5s"}
NAMES = ("web1", "web2", "web3")


def web(name: str, version: str, most: Any = 1, **spec: Any) -> Document:
    """A server that is ready, unless its version is "bad"."""
    script = f"echo {version} > /tmp/version; test {version} = bad || touch /tmp/ready; exec sleep 1000"
    return server(
        name, "sh", "-c", script, labels={"tier": "web"}, ephemeral=True,
        readiness={"file": "/tmp/ready", **FAST}, updateStrategy={"maxUnavailable": most}, **spec,
    )  # fmt: skip


def webs(version: str, **spec: Any) -> list[Document]:
    return [image(), *(web(name, version, **spec) for name in NAMES)]


def version(lab: Lab, name: str) -> str:
    wait_until(lambda: (lab.root(name) / "tmp/version").exists())
    return (lab.root(name) / "tmp/version").read_text().strip()


def recorded(lab: Lab, name: str) -> str:
    """The version in the spec that was last applied."""
    spec = json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["spec"]
    return str(spec["init"]["command"][2].split()[1])


def test_servers_restart_one_after_the_other_each_when_the_last_is_ready(lab: Lab) -> None:
    lab.apply(*webs("one"), flags=("--wait",))
    before = lab.inits(*NAMES)
    done = lab.apply(*webs("two"))
    assert [line.partition(":")[0] for line in done.stderr.splitlines()[:3]] == [
        "Server/web1", "Server/web2", "Server/web3"
    ]  # fmt: skip
    assert [version(lab, name) for name in NAMES] == ["two"] * 3
    assert all(lab.init(name) != before[name] for name in NAMES)
    assert lab.is_settled(*webs("two"))


def test_a_server_that_does_not_become_ready_is_put_back_and_the_others_are_not_touched(lab: Lab) -> None:
    policy = {"policy": "always", "delay": "100ms"}
    lab.apply(*webs("one", restart=policy), flags=("--wait",))
    before = lab.inits("web2", "web3")
    done = lab.apply(*webs("bad", restart=policy), flags=("--wait-timeout", "3s"), check=False)
    assert done.returncode == 1
    why = "did not become ready within 3s: /tmp/ready: No such file or directory"
    said = f"{why}; it was put back to what it was before"
    assert f"vsprov: Server/web1: {said}" in done.stderr
    assert "vsprov: Server/web2: skipped, because Server/web1 did not become ready" in done.stderr
    assert lab.inits("web2", "web3") == before
    assert (version(lab, "web1"), recorded(lab, "web1")) == ("one", "one")
    # It stays so when the keeper restarts it.
    lab.wait_for_restart("web1", lab.end("web1"))
    assert version(lab, "web1") == "one"
    # The next apply tries again, with what has been repaired.
    lab.apply(*webs("two", restart=policy))
    assert [version(lab, name) for name in NAMES] == ["two"] * 3


def test_a_server_without_readiness_has_to_keep_running(lab: Lab) -> None:
    def plain(name: str, script: str) -> Document:
        strategy = {"maxUnavailable": "50%"}
        return server(name, "sh", "-c", script, labels={"tier": "web"}, updateStrategy=strategy)

    lab.apply(image(), *(plain(name, "exec sleep 1000") for name in NAMES))
    before = lab.inits("web2", "web3")
    dies = [image(), *(plain(name, "exit 3") for name in NAMES)]
    done = lab.apply(*dies, flags=("--settle", "5s"), check=False)
    assert done.returncode == 1
    said = "vsprov: Server/web1: did not keep running: Exited (3); it was put back to what it was before"
    assert said in done.stderr
    assert lab.inits("web2", "web3") == before
    assert lab.init("web1")


def test_servers_with_other_labels_are_another_batch(lab: Lab) -> None:
    def documents(version: str) -> list[Document]:
        other = web("api", version)
        other["metadata"]["labels"] = {"tier": "api"}
        return [image(), web("web1", version), other]

    lab.apply(*documents("one"), flags=("--wait",))
    changes = lab.plan(*documents("two"))["resource_changes"]
    assert {change["address"]: change["depends_on"] for change in changes} == {
        "Server/web1": [],
        "Server/api": [],
    }


def slow(name: str, version: str) -> Document:
    """A server that is ready once somebody says so."""
    script = f"echo {version} > /tmp/version; exec sleep 1000"
    return server(
        name, "sh", "-c", script, labels={"tier": "web"}, ephemeral=True,
        readiness={"file": "/tmp/ready", **FAST}, updateStrategy={},
    )  # fmt: skip


def make_ready(lab: Lab, *names: str) -> None:
    for name in names:
        wait_until(lambda name=name: (lab.root(name) / "tmp").exists())  # type: ignore[misc]
        (lab.root(name) / "tmp/ready").touch()
    lab.vsprov("wait", "--for", "ready", *names)


def test_after_an_interruption_the_servers_that_are_not_ready_count_as_unavailable(lab: Lab) -> None:
    def documents(version: str) -> list[Document]:
        return [image(), *(slow(name, version) for name in NAMES)]

    lab.apply(*documents("one"))
    make_ready(lab, *NAMES)
    before = lab.inits(*NAMES)
    with subprocess.Popen(
        lab.vsprov.command("apply", "-y", "-"), env=lab.vsprov.environment, stdin=subprocess.PIPE, text=True
    ) as applying:
        assert applying.stdin
        applying.stdin.write(to_yaml(*documents("two")))
        applying.stdin.close()
        lab.wait_for_restart("web1", before["web1"])
        assert version(lab, "web1") == "two"
        applying.kill()
    # web1 has the new version, and nothing is left to be changed there; but it is the one that may be down.
    done = lab.apply(*documents("two"), flags=("--wait-timeout", "1s"), check=False)
    assert done.returncode == 1
    assert "vsprov: Server/web1: did not become ready within 1s" in done.stderr
    assert "put back" not in done.stderr
    assert "vsprov: Server/web2: skipped, because Server/web1 did not become ready" in done.stderr
    assert lab.inits("web2", "web3") == {name: before[name] for name in ("web2", "web3")}
    # A repaired version restarts the one that is down first, and goes on when it is ready.
    last = lab.init("web1")
    repaired = [image(), *(web(name, "three") for name in NAMES)]
    changes = lab.plan(*repaired)["resource_changes"]
    assert [(change["name"], "Server/web1#ready" in change["depends_on"]) for change in changes] == [
        ("web1", False), ("web2", True), ("web3", False)
    ]  # fmt: skip
    lab.converge(*repaired)
    assert lab.init("web1") != last
    assert [version(lab, name) for name in NAMES] == ["three"] * 3


def test_a_server_that_was_not_ready_before_either_is_put_back_once(lab: Lab) -> None:
    lab.apply(*webs("bad"))
    wait_until(lambda: version(lab, "web1") == "bad")
    worse = [image(), *(web(name, "bad", hostname="other", init={"env": {"A": "b"}}) for name in NAMES)]
    done = lab.apply(*worse, flags=("--wait-timeout", "1s"), check=False)
    assert done.returncode == 1
    assert done.stderr.count("it was put back to what it was before") == 1
    assert lab.is_settled(*webs("bad"))


@pytest.mark.parametrize("ends", ["ready", "changed", "stopped"])
def test_other_commands_can_work_while_servers_get_ready(lab: Lab, ends: str) -> None:
    def documents(version: str) -> list[Document]:
        return [image(), *(slow(name, version) for name in NAMES)]

    lab.apply(*documents("one"))
    make_ready(lab, *NAMES)
    before = lab.inits(*NAMES)
    lab.apply(image(), server("other"), flags=("--set-name", "b"))
    with applying(lab, *documents("two")) as it:
        lab.wait_for_restart("web1", before["web1"])
        wait_until(lambda: lab.vsprov("stop", "other", check=False).returncode == 0)  # it does not wait
        assert lab.inits("web2", "web3") == {name: before[name] for name in ("web2", "web3")}
        if ends == "ready":
            for name in NAMES:
                lab.wait_for_restart(name, before[name])
                make_ready(lab, name)
            it.succeeds()
        elif ends == "changed":
            lab.apply(image(), web("web1", "three"))
        else:
            lab.vsprov("stop", "web1")
        code, said = it.ended()
    if ends != "ready":
        assert code == 1
        assert "vsprov: Server/web1: another command has changed it while this one waited\n  hint: " in said
        assert "vsprov: Server/web2: skipped, because Server/web1 did not become ready" in said
        assert lab.inits("web2", "web3") == {name: before[name] for name in ("web2", "web3")}
    last = "three" if ends == "changed" else "two"
    assert recorded(lab, "web1") == last and bool(lab.running("web1")) == (ends != "stopped")


def test_a_server_that_fails_is_put_back_although_others_of_its_batch_are_ready(lab: Lab) -> None:
    def documents(*versions: str) -> list[Document]:
        return [image(), *(web(f"web{at}", each, 2) for at, each in enumerate(versions, 1))]

    lab.apply(*documents("one", "one", "one", "one"), flags=("--wait",))
    before = lab.inits("web3", "web4")
    done = lab.apply(*documents("bad", "two", "two", "two"), flags=("--wait-timeout", "2s"), check=False)
    assert done.returncode == 1
    assert done.stderr.count("it was put back to what it was before") == 1
    assert [recorded(lab, f"web{at}") for at in range(1, 5)] == ["one", "two", "one", "one"]
    assert lab.inits("web3", "web4") == before
