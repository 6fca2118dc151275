"""get: what there is, as a table, as names, as a manifest and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.verbs import HOST, web
from tests.lab import (
    Lab,
    status,
    to_yaml,
)


@pytest.mark.vm_subset
def test_what_get_prints_as_yaml_is_a_manifest_whose_plan_is_empty(shop: Lab, tmp_path: Path) -> None:
    (tmp_path / "now.yaml").write_text(shop.vsprov("get", "-o", "yaml").stdout)
    assert "    maxSize: 10Mi\n" in (tmp_path / "now.yaml").read_text()
    done = shop.vsprov("plan", "--detailed-exitcode", tmp_path / "now.yaml")
    assert done.stdout == "Nothing to do: 4 servers, 1 image, 1 quota match the manifest.\n"
    assert shop.vsprov("diff", tmp_path / "now.yaml").stdout == ""


@pytest.mark.vm_subset
def test_get_as_json_tells_spec_and_status(shop: Lab) -> None:
    one = json.loads(shop.vsprov("get", "server", "web1", "-o", "json").stdout)
    init = shop.init("all/web1")
    assert (one["apiVersion"], one["kind"]) == ("vsprov/v1", "Server")
    assert one["metadata"] == {"name": "web1", "labels": {"tier": "web"}}
    assert one["spec"]["quota"] == "all" and one["spec"]["resources"]["memory"]["max"] == 64 << 20
    seen = one["status"]
    assert (seen["state"], seen["pid"]) == ("Running", init.pid)
    assert seen["cgroup"] == f"{shop.vsprov.name}/all/web1"
    assert seen["idRange"] == {"first": int(status(init.pid, "Uid").split()[0]), "count": 65536}
    assert seen["usage"]["pids"] == 1 and seen["usage"]["cpuSeconds"] > 0
    assert seen["usage"]["memoryBytes"] is None or 4096 <= seen["usage"]["memoryBytes"] <= 64 << 20
    assert (seen["addresses"], seen["lastExit"], seen["set"]) == ([], None, "default")
    stopped = json.loads(shop.vsprov("get", "server/old", "-o", "json").stdout)
    assert (stopped["status"]["state"], stopped["status"]["pid"], stopped["spec"]["state"]) == (
        "Stopped",
        None,
        "Stopped",
    )


def test_get_without_a_name_is_a_list_of_all_kinds(shop: Lab) -> None:
    items = json.loads(shop.vsprov("get", "-o", "json").stdout)["items"]
    addresses = [f"{one['kind']}/{one['metadata']['name']}" for one in items]
    assert addresses == ["Image/host", "Quota/all", "Server/db1", "Server/old", "Server/web1", "Server/web2"]
    assert shop.vsprov("get", "-o", "name").stdout.split() == addresses
    assert shop.vsprov("get", "quotas", "-o", "name").stdout == "Quota/all\n"


def test_get_shows_a_table(shop: Lab) -> None:
    lines = shop.vsprov("get", "servers").stdout.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "PID", "IMAGE", "QUOTA", "CPU", "MEMORY", "PIDS", "UPTIME"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["web1"][1:5] == ["Running", str(shop.init("all/web1").pid), "host", "all"]
    assert rows["web1"][6].endswith("/64Mi") and rows["web2"][7].endswith("/20")
    assert rows["old"][1:3] == ["Stopped", "-"]
    wide = shop.vsprov("get", "servers", "-o", "wide").stdout
    assert f"{shop.vsprov.name}/all/web1" in wide and "sleep infinity" in wide


def test_a_name_there_is_not_is_an_error_with_the_nearest_one(shop: Lab) -> None:
    refused = shop.vsprov("get", "server", "wbe1", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "vsprov: Server/wbe1: not found\n  hint: did you mean web1?\n"


def test_what_get_prints_as_names_is_taken_by_every_verb(shop: Lab) -> None:
    names = shop.vsprov("get", "servers", "-o", "name", "-l", "tier=web").stdout.split()
    assert names == ["Server/web1"]
    assert shop.vsprov("get", "-o", "name", *names, "Image/host").stdout == "Server/web1\nImage/host\n"
    assert shop.vsprov("exec", *names, "--", "echo", "hello").stdout == "hello\n"
    assert shop.vsprov("logs", "server/web1").stdout == ""
    assert shop.vsprov("ps", *names).stdout.splitlines()[1].split()[0] == "web1"
    assert "already running" in shop.vsprov("start", *names).stderr


def test_labels_that_no_server_has_are_told(shop: Lab) -> None:
    done = shop.vsprov("get", "-l", "tier=none")
    assert (done.stdout, done.stderr) == ("", "No server matches the labels tier=none.\n")


def test_labels_select_servers_only(shop: Lab) -> None:
    done = shop.vsprov("get", "images", "-l", "tier=web", check=False)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.splitlines()[0] == "vsprov: get images: -l selects servers only"


def test_get_shows_a_limit_that_was_changed_by_hand(lab: Lab) -> None:
    lab.apply(HOST, web(resources={"pids": {"max": 20}}))
    (lab.group("web1", "pids") / "pids.max").write_text("17")
    one = json.loads(lab.vsprov("get", "server", "web1", "-o", "json").stdout)
    assert one["spec"]["resources"] == {"pids": {"max": 17}}
    assert (
        lab.vsprov("diff", "-", input=to_yaml(web(resources={"pids": {"max": 20}})), check=False).returncode
        == 1
    )


def test_get_of_nothing_is_nothing(lab: Lab) -> None:
    assert json.loads(lab.vsprov("get", "-o", "json").stdout) == {"items": []}
    assert lab.vsprov("get", "-o", "yaml").stdout == "" == lab.vsprov("get", "-o", "name").stdout
    assert lab.vsprov("get", "servers").stdout.splitlines()[0].startswith("NAME")
