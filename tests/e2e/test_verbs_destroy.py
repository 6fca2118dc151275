"""doctor and destroy, and applies that are terminated."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.applying import applying
from tests.e2e.verbs import HOST, on_a_terminal, web
from tests.lab import Lab, pool, server, to_yaml, wait_until


@pytest.mark.vm_subset
@pytest.mark.bare_debian
def test_doctor_says_that_servers_can_run_here(lab: Lab) -> None:
    report = json.loads(lab.vsprov("doctor", "-o", "json").stdout)
    assert report["able"] is True
    states = {finding["feature"]: finding["state"] for finding in report["findings"]}
    assert states["overlay"] == states["mount API"] == states["namespace user"] == states["cgroup2"] == "ok"
    assert all(finding["cost"] for finding in report["findings"] if finding["state"] != "ok")
    assert "Servers can run on this host" in lab.vsprov("doctor").stdout


@pytest.mark.bare_debian
def test_doctor_without_root_says_that_they_cannot(lab: Lab) -> None:
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", *lab.vsprov.command("doctor")]
    done = subprocess.run(command, capture_output=True, text=True, env=lab.vsprov.environment)
    assert done.returncode == 69
    assert done.stderr.startswith("vsprov: doctor: most tests need root")
    assert "capabilities" in done.stdout and "Servers cannot run on this host" in done.stdout


@pytest.mark.parametrize(
    "verb", [["get"], ["plan", "-"], ["apply", "-y", "-"], ["ps"], ["logs", "a"], ["stop", "--all"]]
)
def test_without_root_it_ends_with_77_and_says_so(lab: Lab, verb: list[str]) -> None:
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", *lab.vsprov.command(*verb)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=lab.vsprov.environment, input=to_yaml(HOST)
    )
    assert (done.returncode, done.stdout) == (77, "")
    assert "needs root\n  hint: run it with sudo\n" in done.stderr


def test_destroy_removes_what_the_manifest_names_and_leaves_the_rest(lab: Lab) -> None:
    documents = (HOST, pool("all"), web(quota="all"), server("db1"))
    lab.apply(*documents)
    kept = lab.init("db1")
    refused = lab.vsprov("destroy", "-y", "-", input=to_yaml(HOST), check=False)
    assert refused.returncode == 1 and "used by Server/db1, Server/web1" in refused.stderr
    done = lab.vsprov("destroy", "-y", "-", input=to_yaml(*documents[1:3]))
    assert "Done: 0 added, 0 changed, 2 destroyed" in done.stdout
    assert lab.init("db1") == kept
    assert lab.vsprov("get", "-o", "name").stdout == "Image/host\nServer/db1\n"
    assert "Nothing to do" in lab.vsprov("destroy", "-y", "-", input=to_yaml(*documents[1:3])).stdout


@pytest.mark.vm_subset
def test_destroy_all_takes_every_set_and_leaves_nothing(lab: Lab) -> None:
    lab.apply(HOST, flags=("--set-name", "base"))
    lab.apply(pool("all"), web(quota="all"), flags=("--set-name", "shop"))
    lab.vsprov("destroy", "--all", "-y")
    assert lab.vsprov.left() == []
    assert "Nothing to do" in lab.vsprov("destroy", "--all").stdout
    assert lab.vsprov.left() == []


def test_destroy_does_not_ask_for_what_the_manifest_refers_to(lab: Lab) -> None:
    lab.apply(HOST, web(), server("db1"))
    alone = to_yaml(web(image="gone", quota="gone", dependsOn=[{"name": "gone"}]))
    assert lab.vsprov("plan", "-", input=alone, check=False).returncode == 65
    assert lab.vsprov("destroy", "-y", "-", input=alone).returncode == 0
    assert lab.vsprov("get", "-o", "name").stdout == "Image/host\nServer/db1\n"
    assert lab.vsprov("destroy", "-y", "-", input=alone).stdout == "Nothing to do.\n"
    broken = alone.replace('"image"', '"imgae"')
    assert lab.vsprov("destroy", "-y", "-", input=broken, check=False).returncode == 65


def test_servers_that_take_long_to_stop_are_named_meanwhile(lab: Lab) -> None:
    names = [f"deaf{number}" for number in range(5)]
    deaf = "trap : TERM; while :; do sleep 1000; done"
    lab.apply(HOST, *(server(name, "sh", "-c", deaf, init={"stopTimeout": "1h"}) for name in names))
    inits = lab.inits(*names)
    with applying(lab, verb=("destroy", "--all", "-y")) as it:
        wait_until(lambda: b"stop\n" in os.pread(it.said.fileno(), 1000, 0))
        for init in inits.values():
            os.kill(init.pid, signal.SIGKILL)
        code, said = it.ended()
    assert code == 0
    assert "waiting for Server/deaf0, Server/deaf1, Server/deaf2 and 2 more to stop\n" in said
    assert said.count("waiting for") == 1


def test_destroy_all_leaves_what_is_not_ours(lab: Lab) -> None:
    lab.apply(HOST, web())
    stranger = lab.group("stranger")
    stranger.mkdir()
    try:
        lab.vsprov("destroy", "--all", "-y", check=False)
        assert stranger.is_dir()
        assert not lab.group("web1").exists()
    finally:
        stranger.rmdir()


def test_an_apply_that_is_terminated_ends_with_143_and_the_next_one_converges(lab: Lab) -> None:
    documents = (HOST, *(web(f"web{i}") for i in range(20)))
    running = subprocess.Popen(
        lab.vsprov.command("apply", "-y", "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=lab.vsprov.environment,
    )
    assert running.stdin and running.stderr
    running.stdin.write(to_yaml(*documents).encode())
    running.stdin.close()
    while not running.stderr.readline().startswith(b"Server/web"):
        assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    told = running.stderr.read()
    assert running.wait(60) in (0, 143), told
    assert b"Traceback" not in told
    running.stderr.close()
    lab.apply(*documents)
    assert lab.is_settled(*documents)


def test_the_question_names_the_instance_the_host_and_what_is_lost(lab: Lab, tmp_path: Path) -> None:
    lab.apply(HOST, web(), web("web2"))
    lab.shell("web1", "dd if=/dev/zero of=/srv/big bs=1M count=30")
    (tmp_path / "m.yaml").write_text(to_yaml(web("web2")))
    where = f"of instance {lab.vsprov.name} on {os.uname().nodename}"
    code, shown = on_a_terminal(lab, "destroy", "--all", typed="n\n", when="[y/N]")
    assert code == 130 and lab.init("web1")
    lost = r"2 servers, with (\S+)Mi of written files; image host\?"
    found = re.search(f"Destroy everything {re.escape(where)}: {lost} ", shown)
    assert found and 30.0 <= float(found[1]) < 30.5
    _, shown = on_a_terminal(lab, "destroy", str(tmp_path / "m.yaml"), typed="n\n", when="[y/N]")
    assert f"Destroy these objects {where}: 1 server? " in shown
