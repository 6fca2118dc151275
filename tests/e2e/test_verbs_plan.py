"""Plans that are saved and applied later, and diff."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.e2e.verbs import HOST, web
from tests.lab import (
    Lab,
    to_yaml,
)

# -- saved plans


def test_a_saved_plan_is_applied_without_its_manifest_and_without_asking(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    lab.vsprov("plan", tmp_path / "m.yaml", "--out", tmp_path / "p.plan")
    assert (tmp_path / "p.plan").stat().st_mode & 0o777 == 0o600
    (tmp_path / "m.yaml").unlink()
    done = lab.vsprov("apply", tmp_path / "p.plan")
    assert "Done: 2 added" in done.stdout
    assert lab.is_settled(HOST, web())


@pytest.mark.parametrize("how", ["the world", "the manifest"])
def test_a_saved_plan_is_refused_when_what_it_was_made_from_has_changed(
    lab: Lab, tmp_path: Path, how: str
) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    lab.vsprov("plan", tmp_path / "m.yaml", "--out", tmp_path / "p.plan")
    if how == "the world":
        lab.apply(HOST)
    else:
        (tmp_path / "m.yaml").write_text(to_yaml(HOST, web("web2")))
    refused = lab.vsprov("apply", tmp_path / "p.plan", check=False)
    assert refused.returncode == 1
    assert "the saved plan is stale" in refused.stderr
    assert "Server/web1" not in lab.vsprov("get", "-o", "name").stdout


def test_a_saved_plan_is_applied_once_and_alone(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    plan = tmp_path / "p.plan"
    lab.vsprov("plan", tmp_path / "m.yaml", "--out", plan)
    assert lab.vsprov("apply", plan, "--prune", check=False).returncode == 64
    assert lab.vsprov("apply", plan, tmp_path / "m.yaml", check=False).returncode == 64
    assert lab.vsprov("apply", plan, "--instance", "vt-other", check=False).returncode == 64
    assert lab.vsprov("apply", plan).returncode == 0
    assert lab.vsprov("apply", plan, check=False).returncode == 1
    torn = plan.read_text()[:1000]
    plan.write_text(torn)
    refused = lab.vsprov("apply", plan, check=False)
    assert refused.returncode == 64 and "not a plan saved by this version" in refused.stderr


def test_a_plan_is_not_saved_over_what_it_was_made_from(lab: Lab, tmp_path: Path) -> None:
    text = to_yaml(HOST, web())
    for name in ("m.yaml", "values.yaml", "notes"):
        (tmp_path / name).write_text(text if name == "m.yaml" else "note: 1\n")
    (tmp_path / "vsprov.yaml").write_text("set: shop\n")
    command = ("plan", tmp_path / "m.yaml", "--values", tmp_path / "values.yaml", "--out")
    for name in ("m.yaml", "values.yaml", "vsprov.yaml", "notes"):
        before = (tmp_path / name).read_text()
        refused = lab.vsprov(*command, tmp_path / name, check=False)
        assert (refused.returncode, refused.stdout) == (64, "")
        assert f"{tmp_path / name}: write the plan: the " in refused.stderr
        assert (tmp_path / name).read_text() == before


def test_a_plan_is_written_to_a_pipe_or_a_terminal_as_it_is(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(to_yaml(HOST, web()))
    done = lab.vsprov("plan", "-q", tmp_path / "m.yaml", "--out", "/dev/stdout")
    before, brace, plan = done.stdout.partition("{")
    plan, end, after = plan.partition("\n}\n")
    assert json.loads(brace + plan + end)["summary"]["add"] == 2
    assert before == "" and "Plan: 2 to add" in after and done.stderr == ""


def test_a_plan_says_how_much_of_what_a_server_has_written_is_lost(lab: Lab, tmp_path: Path) -> None:
    lab.apply(HOST, web(), web("web2"), web("web3"))
    (lab.directory("web1") / "upper/big").write_bytes(b"x" * (3 << 20))
    (lab.directory("web2") / "upper").rename(tmp_path / "moved")
    (lab.directory("web2") / "upper").symlink_to(tmp_path / "moved")
    shown = lab.vsprov("plan", "--prune", "-", input=to_yaml(HOST)).stdout
    lost = r"  - Server/web1  \((3\d{3}Ki|3(\.\d)?Mi) of written files will be lost\)\n"
    assert re.search(lost, shown), shown
    assert "  - Server/web2\n" in shown
    assert "  - Server/web3\n" in shown  # only the mount points of vsprov are in its upper layer
    (lab.directory("web2") / "upper").unlink()
    (tmp_path / "moved").rename(lab.directory("web2") / "upper")


# -- diff


def test_diff_shows_what_differs_and_its_exit_code_says_whether(lab: Lab) -> None:
    lab.apply(HOST, web(resources={"memory": {"max": "64Mi"}}))
    documents = to_yaml(HOST, web(resources={"memory": {"max": "64Mi"}}))
    same = lab.vsprov("diff", "-", input=documents)
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    other = lab.vsprov("diff", "-", input=documents.replace("64Mi", "65Mi"), check=False)
    assert other.returncode == 1
    assert other.stdout.startswith("--- observed/Server/web1\n+++ wanted/Server/web1\n@@")
    assert "\n-      max: 64Mi\n+      max: 65Mi\n" in other.stdout
    missing = lab.vsprov("diff", "-", input=to_yaml(web("web2", image="host")), check=False)
    assert missing.returncode == 1 and "+  name: web2\n" in missing.stdout
    assert lab.vsprov("diff", "-", input="kind: Sever", check=False).returncode == 65


@pytest.mark.vm_subset
def test_diff_takes_equal_what_the_kernel_rounds_or_has_by_default(lab: Lab) -> None:
    lab.apply(HOST, web(resources={"memory": {"max": "64Mi"}}))
    near = web(resources={"memory": {"max": (64 << 20) + 5}, "cpu": {"weight": 100}})
    assert lab.vsprov("diff", "-", input=to_yaml(HOST, near)).stdout == ""
