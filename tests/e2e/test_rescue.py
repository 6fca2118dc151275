"""start --rescue: a shell that waits instead of the server's own init."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.e2e.networks import NetworkLab, idle, network
from tests.e2e.verbs import HOST, web
from tests.lab import Lab, to_yaml


def state(lab: Lab, name: str) -> Any:
    return json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]["state"]


@pytest.mark.vm_subset
def test_a_server_that_fails_at_every_start_is_repaired_from_inside(lab: Lab) -> None:
    fixed = web(
        init={"command": ["sh", "-c", "test -e /root/app && sleep 1000"]}, resources={"pids": {"max": 20}}
    )
    lab.apply(HOST, fixed, check=False)
    lab.wait_until(lambda: lab.processes("web1") == [])
    lab.vsprov("start", "--rescue", "web1")
    assert state(lab, "web1") == "Rescue"
    assert lab.limit("web1", "pids.max") == "20"
    assert lab.vsprov("start", "--rescue", "web1").stderr == "Server/web1: already in rescue\n"
    lab.shell("web1", "echo fine > /root/app")
    assert lab.differences(HOST, fixed) == {"Server/web1 /spec/state": ("Rescue", "Running", "restart")}
    lab.converge(HOST, fixed)
    assert state(lab, "web1") == "Running"
    assert lab.shell("web1", "cat /root/app") == "fine\n"


def test_start_and_restart_end_a_rescue_and_stop_stops_it_at_once(lab: Lab) -> None:
    lab.apply(HOST, web(state="Stopped", init={"command": ["sleep", "1000"], "stopTimeout": "1h"}))
    for verb in ("start", "restart"):
        lab.vsprov("start", "--rescue", "web1")
        first = lab.init("web1")
        lab.vsprov(verb, "web1")
        assert lab.init("web1") != first and state(lab, "web1") == "Running"
        lab.vsprov("stop", "web1", "--timeout", "1s")
    for signal in ("TERM", "INT", "RTMIN+3"):
        init = {"command": ["sleep", "1000"], "stopTimeout": "1h", "stopSignal": signal}
        lab.apply(HOST, web(state="Stopped", init=init))
        lab.vsprov("start", "--rescue", "web1")
        lab.wait_until(lambda: len(lab.processes("web1")) == 2)
        assert "killed" not in lab.vsprov("stop", "web1").stderr
        assert lab.processes("web1") == []


def test_a_shell_in_a_rescued_server_that_boots_does_not_depend_on_its_logins(lab: Lab) -> None:
    lab.apply(HOST, web(state="Stopped", init={"style": "sysv", "command": ["sleep", "1000"]}))
    lab.vsprov("start", "--rescue", "web1")
    assert lab.vsprov("shell", "web1", input="echo $PPID\n").stdout == "0\n"


def test_a_rescued_server_has_the_privileges_of_its_own_style(lab: Lab) -> None:
    """Pid 1 itself, and what it may make: /proc/sys, user namespaces, mounts."""
    script = """
    grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/1/status
    echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/user/max_user_namespaces
    stat -fc %T /sys/fs/cgroup; stat -c %F:%t:%T /dev/console
    unshare -Urm mount -t tmpfs none /mnt && echo mounted
    """
    for style in ("systemd", "sysv"):
        lab.apply(HOST, web(init={"style": style, "command": ["sleep", "1000"]}))
        own = lab.shell("web1", script)
        assert own.endswith("mounted\n")
        lab.vsprov("stop", "web1", "--timeout", "1s")
        lab.vsprov("start", "--rescue", "web1")
        assert lab.shell("web1", script) == own
        lab.vsprov("delete", "server", "web1", "-y")


def test_a_running_server_is_not_rescued(lab: Lab) -> None:
    lab.apply(HOST, web())
    first = lab.init("web1")
    done = lab.vsprov("start", "--rescue", "web1", check=False)
    assert done.returncode == 1
    assert done.stderr == "vsprov: Server/web1: start --rescue: it is running\n  hint: vsprov stop web1\n"
    assert lab.init("web1") == first


def test_a_rescued_server_is_neither_probed_nor_restarted_also_by_the_next_keeper(lab: Lab) -> None:
    probed = web(
        state="Stopped",
        restart={"policy": "always", "delay": "100ms"},
        health={"exec": ["false"], "interval": "100ms", "retries": 1},
    )
    always = {"policy": "always", "delay": "100ms"}
    lab.apply(HOST, probed, web("web2", state="Stopped", restart=always), web("web3"))
    lab.vsprov("start", "--rescue", "web1")
    first = lab.init("web1")
    os.kill(lab.keeper(), 9)
    lab.vsprov("start", "web2")  # starts another keeper, which takes over the servers
    assert lab.init("web1") == first and state(lab, "web1") == "Rescue"
    other = lab.init("web2")
    lab.vsprov("kill", "web1")
    lab.vsprov("kill", "web2")
    lab.wait_for_restart("web2", other)
    assert lab.processes("web1") == []
    assert state(lab, "web1").startswith("Exited")


def test_a_rescued_server_has_its_networks(shared_net: NetworkLab) -> None:
    lab = shared_net.lab
    lan = network("lan", "10.78.0.0/24")
    lab.apply(HOST, lan, idle("a", "lan", state="Stopped"))
    lab.vsprov("start", "--rescue", "a")
    assert shared_net.inside("a").keys() == {"eth0"}
    lab.vsprov("destroy", "-y", "-", input=to_yaml(HOST, lan, idle("a", "lan")))
