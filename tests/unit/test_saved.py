"""Saved plans on disk: what is none is refused, whatever it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsprov.engine.desired import saved
from vsprov.engine.desired.inputs import Inputs
from vsprov.errors import FailedError, ManifestError, UsageError
from vsprov.manifest import load as manifests
from vsprov.plan.observed import Observed, ObservedServer
from vsprov.plan.plan import digest
from vsprov.plan.seen_disk import SeenDisk
from vsprov.store.instance import Instance

INSTANCE = Instance("vt-saved", "/nonexistent")
GOOD: dict[str, Any] = {
    "format_version": "1.0",
    "set": "default",
    "inputs_digest": "sha256:0",
    "options": {"instance": "vt-saved", "prune": False, "inputs": {"paths": ["/nonexistent/m.yaml"]}},
    "documents": [
        {
            "apiVersion": "vsprov/v1",
            "kind": "Image",
            "metadata": {"name": "host"},
            "spec": {"source": {"host": {}}},
        }
    ],
}


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    saved.write(str(tmp_path / "p"), GOOD)
    assert saved.is_plan(str(tmp_path / "p"))
    assert (tmp_path / "p").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    plan = saved.read(str(tmp_path / "p"), INSTANCE)
    assert plan.inputs == Inputs(("/nonexistent/m.yaml",))
    assert (plan.desired.set_name, plan.desired.wanted.owner) == ("default", "vt-saved/default")
    assert plan.desired.wanted.prune is False
    assert plan.desired.manifest == manifests.load_documents(GOOD["documents"])
    saved.refuse_changed_inputs(plan)  # its manifest is not there: nothing to compare


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from(["format_version", "options", "documents", "set"]), value=json_values)
def test_a_plan_that_was_edited_is_refused_or_read_and_never_a_fault(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "plan"
    path.write_text(json.dumps({**GOOD, key: value}))
    try:
        saved.read(str(path), INSTANCE)
    except (UsageError, ManifestError):
        pass


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "kind: Server", '{"a": 1}', '{"format_version": "0.1"}', "\0" * 100]
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p").write_text(text)
    with pytest.raises(UsageError, match="not a plan"):
        saved.read(str(tmp_path / "p"), INSTANCE)


def test_only_a_regular_file_is_looked_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not saved.is_plan(str(tmp_path / "pipe"))
    assert (
        not saved.is_plan(str(tmp_path))
        and not saved.is_plan("-")
        and not saved.is_plan(str(tmp_path / "none"))
    )


def test_a_plan_that_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="write the plan: it is a directory"):
        saved.write(str(tmp_path / "there"), GOOD)
    with pytest.raises(FailedError, match="write the plan"):
        saved.write(str(tmp_path / "no/such/p"), GOOD)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_saved_plan_outlasts_what_servers_write_meanwhile() -> None:
    def observed(space: int, used: int) -> str:
        disk = SeenDisk("project", space, used=used, used_inodes=used)
        return digest(Observed({"a": ObservedServer("a", space=disk)}))

    assert observed(space=64, used=3) == observed(space=64, used=4) != observed(space=32, used=3)
