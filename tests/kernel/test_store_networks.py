"""Records of networks: what is written is read back; damage is reported, and others' files are left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vsprov.errors import ConflictError, FailedError
from vsprov.store import claims, networks, servers
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import Instance

OWNER = Owner("vt-x", "default")
SPEC = {"spec": {"type": "bridge", "subnets": ["10.20.0.0/24"]}}


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    monkeypatch.setattr(claims, "FOLDER", f"{tmp_path}/ranges")
    return Instance("vt-x", f"{tmp_path}/state")


def test_what_is_recorded_is_read_back_and_the_last_record_leaves_nothing(instance: Instance) -> None:
    assert networks.observe(instance) == {}
    networks.write(instance, "lan", OWNER, SPEC)
    networks.write(instance, "lan", OWNER, {**SPEC, "before": {"a": "1"}})
    (found,) = networks.observe(instance).values()
    assert found == networks.NetworkRecord("lan", OWNER, {**SPEC, "before": {"a": "1"}})
    assert os.stat(instance.networks).st_mode & 0o777 == 0o700
    networks.remove(instance, "lan")
    networks.remove(instance, "lan")
    assert networks.observe(instance) == {}
    servers.tidy(instance)
    assert not os.path.exists(instance.root)


def test_a_damaged_record_is_reported_and_keeps_its_owner(instance: Instance) -> None:
    networks.write(instance, "lan", OWNER, SPEC)
    with open(f"{instance.networks}/lan.json", "r+b") as file:
        file.truncate(20)
    (found,) = networks.observe(instance).values()
    assert found == networks.NetworkRecord("lan", OWNER, None, "lan.json is truncated")
    networks.write(instance, "lan", OWNER, SPEC)
    assert networks.observe(instance)["lan"].applied == SPEC


def test_the_file_of_another_owner_is_left_alone(instance: Instance) -> None:
    networks.write(instance, "other", Owner("vt-y", "default"), SPEC)
    Path(instance.networks, "lan.json").write_text("mine")
    assert networks.observe(instance)["lan"].owner is None
    for name, whose in (("lan", "has no owner mark"), ("other", "belongs to vt-y/default")):
        with pytest.raises(ConflictError, match=whose):
            networks.write(instance, name, OWNER, SPEC)
        with pytest.raises(ConflictError, match=whose):
            networks.remove(instance, name)
    assert Path(instance.networks, "lan.json").read_text() == "mine"
    assert networks.observe(instance)["other"].applied == SPEC


@pytest.mark.parametrize("name", ["", "..", "../servers", "a/b", "LAN", ".tmp-lan"])
def test_what_is_no_name_never_becomes_a_path(instance: Instance, name: str) -> None:
    with pytest.raises(FailedError, match="is not a valid name"):
        networks.write(instance, name, OWNER, SPEC)
    with pytest.raises(FailedError, match="is not a valid name"):
        networks.remove(instance, name)
