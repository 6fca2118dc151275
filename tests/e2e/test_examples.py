"""Every example does what it says: it is applied, comes back from the kernel as it was, leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.instance import CHECKOUT
from tests.lab import Lab

FOLDER = CHECKOUT / "manifests/examples"
EXAMPLES = sorted(path.name for path in FOLDER.iterdir() if path.name.endswith((".yaml", ".yaml.j2")))


def arguments(name: str) -> list[str | Path]:
    values = FOLDER / name.replace(".yaml.j2", ".values")
    return [FOLDER / name, *(("--values", values) if name.endswith(".j2") else ())]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_applied_read_back_and_removed(lab: Lab, tmp_path: Path, name: str) -> None:
    given = arguments(name)
    vsprov = lab.vsprov
    vsprov("validate", *given)
    assert vsprov("validate", *given).stderr == ""  # no warning either
    vsprov("apply", "-y", *given)
    again = vsprov("plan", "--detailed-exitcode", *given)
    assert "Nothing to do" in again.stdout
    read_back = tmp_path / "read-back.yaml"
    read_back.write_text(vsprov("get", "-o", "yaml").stdout)
    back = vsprov("plan", "--detailed-exitcode", read_back, check=False)
    assert back.returncode == 0, back.stdout
    vsprov("destroy", "-y", *given)
    assert vsprov.left() == []


def test_the_quickstart_is_three_servers_of_the_hosts_usr_and_two_quotas(lab: Lab) -> None:
    kinds = [
        line for line in (FOLDER / "quickstart.yaml").read_text().splitlines() if line.startswith("kind: ")
    ]
    assert sorted(kinds) == ["kind: Image", *["kind: Quota"] * 2, *["kind: Server"] * 3]
    lab.vsprov("apply", "-y", FOLDER / "quickstart.yaml")
    names = ("frontend/web1", "frontend/web2", "db1")
    assert len(lab.inits(*names)) == 3
    for name in names:
        assert (lab.root(name) / "usr/bin/env").samefile("/usr/bin/env") or (lab.root(name) / "usr").is_dir()


def test_all_examples_can_be_had_at_once(lab: Lab) -> None:
    """No name is used twice among them."""
    lab.vsprov("apply", "-y", FOLDER, "--values", FOLDER / "template.values")
    assert "Nothing to do" in lab.vsprov("plan", FOLDER, "--values", FOLDER / "template.values").stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_begins_with_what_it_shows(name: str) -> None:
    assert (FOLDER / name).read_text().startswith(("# ", "{# "))
