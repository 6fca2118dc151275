"""Records on disk: what is written is read back, damage is reported, and files of others are left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vsprov.errors import ConflictError, FailedError
from vsprov.store import claims, recorded, servers
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import Instance

OWNER = Owner("vt-x", "default")
SPEC = {"spec": {"type": "bridge", "subnets": ["10.20.0.0/24"]}}


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    monkeypatch.setattr(claims, "FOLDER", f"{tmp_path}/ranges")
    return Instance("vt-x", f"{tmp_path}/state")


def test_what_is_recorded_is_read_back_and_the_last_record_leaves_nothing(instance: Instance) -> None:
    assert recorded.observe(instance, "Network") == {}
    recorded.write(instance, "Network", "lan", OWNER, SPEC)
    recorded.write(instance, "Network", "lan", OWNER, {**SPEC, "before": {"a": "1"}})
    (found,) = recorded.observe(instance, "Network").values()
    assert found == recorded.Record("lan", OWNER, {**SPEC, "before": {"a": "1"}})
    assert os.stat(instance.networks).st_mode & 0o777 == 0o700
    recorded.remove(instance, "Network", "lan")
    recorded.remove(instance, "Network", "lan")
    assert recorded.observe(instance, "Network") == {}
    servers.tidy(instance)
    assert not os.path.exists(instance.root)


def test_a_damaged_record_is_reported_and_keeps_its_owner(instance: Instance) -> None:
    recorded.write(instance, "Network", "lan", OWNER, SPEC)
    with open(f"{instance.networks}/lan.json", "r+b") as file:
        file.truncate(20)
    (found,) = recorded.observe(instance, "Network").values()
    assert found == recorded.Record("lan", OWNER, None, "lan.json is truncated")
    recorded.write(instance, "Network", "lan", OWNER, SPEC)
    assert recorded.observe(instance, "Network")["lan"].applied == SPEC


def test_the_file_of_another_owner_is_left_alone(instance: Instance) -> None:
    recorded.write(instance, "Network", "other", Owner("vt-y", "default"), SPEC)
    Path(instance.networks, "lan.json").write_text("mine")
    assert recorded.observe(instance, "Network")["lan"].owner is None
    for name, whose in (("lan", "has no owner mark"), ("other", "belongs to vt-y/default")):
        with pytest.raises(ConflictError, match=whose):
            recorded.write(instance, "Network", name, OWNER, SPEC)
        with pytest.raises(ConflictError, match=whose):
            recorded.remove(instance, "Network", name)
    assert Path(instance.networks, "lan.json").read_text() == "mine"
    assert recorded.observe(instance, "Network")["other"].applied == SPEC


@pytest.mark.parametrize("name", ["", "..", "../servers", "a/b", "LAN", ".tmp-lan"])
def test_what_is_no_name_never_becomes_a_path(instance: Instance, name: str) -> None:
    with pytest.raises(FailedError, match="is not a valid name"):
        recorded.write(instance, "Network", name, OWNER, SPEC)
    with pytest.raises(FailedError, match="is not a valid name"):
        recorded.remove(instance, "Network", name)
