"""Copies from servers to the host that are killed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.fault.faults import KILLED
from tests.fault.test_snapshots import calls, run
from tests.lab import Lab, image, server, wait_until
from vsprov.engine.apply.report import Silent
from vsprov.engine.servers.files import copy
from vsprov.engine.servers.files.copy import Place
from vsprov.engine.work import WorkOptions
from vsprov.store.instance import Instance
from vsprov.store.written import staging

HOST = image()


@pytest.fixture
def many(lab: Lab) -> Lab:
    lab.apply(HOST, server("web1"))
    lab.shell(
        "web1", "mkdir /srv/many; cd /srv/many; echo a > a; echo b > b; ln -s a c; mkdir d; echo e > d/e"
    )
    return lab


def records(lab: Lab) -> list[Path]:
    return list((lab.vsprov.root / "copies").glob("*"))


@pytest.mark.parametrize("command", ["cp", "apply"])
def test_what_a_killed_copy_has_left_is_removed_by_the_next_command(
    many: Lab, tmp_path: Path, command: str
) -> None:
    out, mine = tmp_path / "out", tmp_path / f"{staging.PREFIX}mine"
    mine.mkdir()

    def copied(instance: Instance) -> object:
        source, target = Place("/srv/many", "web1"), Place(str(out))
        return copy.copy(instance, source, target, Silent(), WorkOptions())

    steps = calls(many, copied)
    assert {"mkdir", "fsync", "Popen", "rename", "rmdir", "unlink"} <= set(steps)
    seen = killed = 0
    for number in range(1, len(steps) + 1):
        shutil.rmtree(out, ignore_errors=True)
        killed += run(many, copied, number) == KILLED  # the number of calls differs a little
        left = [each.name for each in tmp_path.glob(f"{staging.PREFIX}*") if each != mine]
        seen += bool(left)
        assert set(left) <= {staging.PREFIX + each.name for each in records(many)}
        if out.exists():
            assert sorted(os.listdir(out)) == ["a", "b", "c", "d"]
            wait_until(lambda: not any(each.name.startswith(".") for each in out.rglob("*")))
        if command == "apply":
            done = many.apply(HOST, server("web1"))
        else:
            done = many.vsprov("cp", "web1:/srv/many/a", "-")
        assert all(f"removed {tmp_path}/{name}, left by an interrupted copy" in done.stderr for name in left)
        assert list(tmp_path.glob(f"{staging.PREFIX}*")) == [mine] and records(many) == []
    assert killed >= 4 and seen >= 2


def test_a_copy_that_runs_keeps_its_directory(many: Lab, tmp_path: Path) -> None:
    instance = Instance(many.vsprov.name, str(many.vsprov.root))
    with staging.beside(instance, f"{tmp_path}/out") as made:
        (Path(made) / "new").write_text("new")
        many.apply(HOST, server("web1"))
        many.vsprov("cp", "web1:/srv/many/a", str(tmp_path))
        assert sorted(os.listdir(tmp_path)) == sorted(["a", os.path.basename(made)])
        assert os.listdir(made) == ["new"] and len(records(many)) == 1
    assert os.listdir(tmp_path) == ["a"] and records(many) == []


def test_a_record_without_a_path_removes_nothing(many: Lab, tmp_path: Path) -> None:
    folder = many.vsprov.root / "copies"
    folder.mkdir(mode=0o700)
    (folder / "0123456789ab").write_text("")
    (folder / "ba9876543210").write_text(f"{tmp_path}")
    many.vsprov("cp", "web1:/srv/many/a", str(tmp_path))
    assert os.listdir(tmp_path) == ["a"] and records(many) == []
