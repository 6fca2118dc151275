"""Snapshots, restores and clones of servers with volumes: interrupted, or without room for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.effort import worth_trying
from tests.fault.faults import KILLED
from tests.fault.killing import calls, leftovers, listed, run, thawed
from tests.kernel.layers import disk
from tests.kernel.layers import mounted as mounted_at
from tests.lab import Document, Lab, image, mounted, server, volume, wait_until
from vsprov.engine.apply.report import Silent
from vsprov.engine.servers.files import clone as cloning
from vsprov.engine.servers.files import restore as restoring
from vsprov.engine.servers.files import snapshots
from vsprov.engine.servers.files.restore import ChosenVolumes
from vsprov.engine.work import WorkOptions
from vsprov.errors import FailedError
from vsprov.store.disk import exchange
from vsprov.store.instance import Instance

MIB = 1 << 20
MANIFEST: tuple[Document, ...] = (
    image(),
    volume("data"),
    volume("more"),
    server("web1", mounts=[mounted("data"), mounted("more", "/more")]),
    server("web2", mounts=[mounted("data", readOnly=True)], state="Stopped"),
)
SEEN = "cat /srv/file /data/file /more/file"


def create(instance: Instance) -> object:
    return snapshots.create(instance, "web1", "new", Silent(), WorkOptions())


def restore(instance: Instance) -> object:
    chosen = ChosenVolumes(named=("data", "more"))
    return restoring.restore(instance, "web1", "old", Silent(), WorkOptions(), chosen)


def clone(instance: Instance) -> object:
    return cloning.clone(instance, "web1", "web3", "", Silent(), WorkOptions())


def write(lab: Lab, text: str) -> None:
    lab.shell("web1", f"for each in /srv /data /more; do echo {text} > $each/file; done")


@pytest.fixture
def written(lab: Lab) -> Lab:
    lab.apply(*MANIFEST)
    write(lab, "old")
    return lab


def test_a_snapshot_that_is_killed_has_all_volumes_or_does_not_exist(written: Lab) -> None:
    steps = calls(written, create)
    written.vsprov("snapshot", "rm", "web1", "new", "-y")
    for number in worth_trying(steps):
        assert run(written, create, number) == KILLED, number
        wait_until(lambda: thawed(written))
        if listed(written) == []:
            written.vsprov("snapshot", "create", "web1", "new")
        assert listed(written) == ["new"] and leftovers(written) == []
        top = written.directory("web1") / "snapshots/new"
        for path in ("upper/srv/file", "volumes/data/file", "volumes/more/file"):
            assert (top / path).read_text() == "old\n"
        written.vsprov("snapshot", "rm", "web1", "new", "-y")


def test_a_restore_that_is_killed_has_exchanged_everything_or_nothing(written: Lab) -> None:
    written.vsprov("snapshot", "create", "web1", "old")
    steps = calls(written, restore)
    seen, killed = set(), 0
    last = max(place for place, step in enumerate(steps, 1) if step == "renameat2")
    exchanges = range(max(1, last - 8), last + 4)  # each step while names are exchanged
    for number in sorted({*worth_trying(steps), *exchanges}):
        written.apply(*MANIFEST)
        write(written, "new")
        killed += run(written, restore, number) == KILLED
        written.apply(*MANIFEST)
        assert written.is_settled(*MANIFEST)
        files = written.shell("web1", SEEN)
        assert files in ("old\n" * 3, "new\n" * 3), (number, steps[number - 1], files)
        assert leftovers(written) == [], (number, steps[number - 1])
        assert not (written.vsprov.root / exchange.RECORD).exists()
        seen.add(files)
    assert len(seen) == 2 and killed >= 10


def test_a_clone_that_is_killed_has_made_everything_or_nothing(written: Lab) -> None:
    without = _made(written)
    steps = calls(written, clone)
    whole = _made(written)
    assert set(whole) - set(without) == {"servers/web3", "volumes/more-web3"}
    seen, killed = set(), 0
    renames = [place for place, step in enumerate(steps, 1) if step == "renameat2"]
    for number in sorted({*worth_trying(steps), *renames, *(place + 1 for place in renames)}):
        _remove_clone(written)
        killed += run(written, clone, number) == KILLED
        wait_until(lambda: thawed(written))
        written.vsprov("snapshot", "create", "web1", "other")  # any command that changes something
        written.vsprov("snapshot", "rm", "web1", "other", "-y")
        now = _made(written)
        assert now in (without, whole), (number, steps[number - 1])
        seen.add(len(now))
        if now == without:
            written.vsprov("clone", "web1", "web3")
        written.vsprov("start", "web3")
        assert written.shell("web3", SEEN) == "old\n" * 3, (number, steps[number - 1])
    assert killed >= 6 and len(seen) == 2


def _made(lab: Lab) -> list[str]:
    root = lab.vsprov.root
    return sorted(
        str(path.relative_to(root)) for part in ("servers", "volumes") for path in root.glob(f"{part}/*")
    )


def _remove_clone(lab: Lab) -> None:
    lab.vsprov("delete", "server", "web3", "-y", check=False)
    lab.vsprov("delete", "volume", "more-web3", "-y", check=False)


@pytest.mark.requires("ext4", "loop", "mkfs_ext4")
def test_without_room_for_a_volume_nothing_is_left_and_nothing_is_lost(lab: Lab, tmp_path: Path) -> None:
    lab.vsprov.root.mkdir()
    with (
        disk("ext4", tmp_path / "disk", 64 * MIB) as point,
        mounted_at("bind", point, lab.vsprov.root),
    ):
        lab.apply(*MANIFEST)
        write(lab, "old")
        lab.shell("web1", "head -c 18000000 /dev/urandom > /more/large")
        lab.vsprov("snapshot", "create", "web1", "old")
        write(lab, "new")
        lab.shell("web1", "head -c 8000000 /dev/urandom > /srv/large")
        first, free = lab.init("web1"), os.statvfs(point).f_bavail
        words = ("restore", "web1", "old", "--volume", "more", "-y")
        for command in (
            ("snapshot", "create", "web1", "new"),
            ("snapshot", *words),
            ("clone", "web1", "web3"),
        ):
            done = lab.vsprov(*command, check=False)
            assert done.returncode == 1 and "No space left on device" in done.stderr, command
            assert thawed(lab) and lab.init("web1") == first
            assert listed(lab) == ["old"] and leftovers(lab) == []
            assert sorted(os.listdir(lab.vsprov.root / "volumes")) == ["data", "more"]
            assert lab.shell("web1", SEEN) == "new\n" * 3
            wait_until(lambda: os.statvfs(point).f_bavail >= free - 64)
        lab.vsprov("destroy", "--all", "--delete-data", "data", "--delete-data", "more", "-y")
        (point / "lost+found").rmdir()
    lab.vsprov.root.rmdir()


def test_an_exchange_that_fails_in_the_middle_is_taken_back(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    os.mkfifo(tmp_path / "file")
    pairs = [(str(tmp_path / "a"), str(tmp_path / "b")), (str(tmp_path / "d/x/y"), str(tmp_path / "c"))]
    with pytest.raises(FailedError, match="exchange: No such file"):
        exchange.exchange(str(tmp_path), pairs)
    assert [(tmp_path / name / "file").read_text() for name in "abc"] == ["a", "b", "c"]
    assert not (tmp_path / exchange.RECORD).exists() and not exchange.resume(str(tmp_path))


def test_an_interrupted_exchange_is_completed_whatever_part_of_it_was_done(tmp_path: Path) -> None:
    for done in range(3):
        root = tmp_path / str(done)
        pairs = [(str(root / f"{name}"), str(root / f"{name}-new")) for name in ("a", "b")]
        for one, other in pairs:
            for path in (one, other):
                os.makedirs(path)
                Path(path, "file").write_text(os.path.basename(path))
        record, real = root / exchange.RECORD, exchange.exchange_one
        left = [done]

        def die(pair: exchange.Pair, left: list[int] = left, real: object = real) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(pair)  # type: ignore[operator]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exchange, "exchange_one", die)
            if done < 2:
                with pytest.raises(KeyboardInterrupt):
                    exchange.exchange(str(root), pairs)
                assert record.exists()
        if done < 2:
            assert exchange.resume(str(root))
            assert [Path(one, "file").read_text() for one, _ in pairs] == ["a-new", "b-new"]
            assert [Path(other, "file").read_text() for _, other in pairs] == ["a", "b"]
        assert not record.exists() and not exchange.resume(str(root))
