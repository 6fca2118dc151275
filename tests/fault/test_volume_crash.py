"""vsprov dies at every sort of step that creates, mounts, renames and removes volumes; what comes next mends
it, and no data is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import archives, leaks
from tests.btrfs import groups
from tests.fault.crashes import Base, every_step, with_bystander
from tests.fault.faults import Apply
from tests.lab import Document, Lab, image, mounted, server, volume, wait_until
from vsprov.engine.volumes import in_use
from vsprov.plan.aspects.mounts import ChangeVolume
from vsprov.plan.volumes import steps
from vsprov.store.disk import durable
from vsprov.store.instance import Instance
from vsprov.store.layers import unpacking
from vsprov.store.volumes import changes, directory
from vsprov.store.written import replica

# The other sorts are those of any server, after which tests/fault/test_crash.py dies.
VOLUMES = {"Spawn", "Stop", "WriteMark", "WriteApplied", ChangeVolume.__name__}
VOLUMES |= {step.__name__ for step in vars(steps).values() if isinstance(step, type)}
RENAMED = {"renamedFrom": "data"}


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    with with_bystander() as base:
        yield base


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("archive") / "files.tar"
    made.write_bytes(archives.packed(archives.folder("sub"), archives.member("sub/file", b"kept")))
    return made


def before(packed: Path) -> tuple[Document, ...]:
    return (
        image(),
        volume("data", source={"tar": {"path": str(packed)}}),
        volume("other"),
        server("live", mounts=[mounted("data")]),
        server("restarted", mounts=[mounted("other", "/other", readOnly=True)]),
    )


def after(packed: Path) -> tuple[Document, ...]:
    """A volume has another name, owner and mode, is mounted elsewhere as well, and is writable."""
    return (
        image(),
        volume("files", RENAMED, source={"tar": {"path": str(packed)}}, mode="0700", owner=5),
        volume("other"),
        server("live", mounts=[mounted("files"), mounted("other", "/srv")]),
        server("restarted", "sleep", "123456", mounts=[mounted("other", "/other"), mounted("files", "/opt")]),
    )


def kept(base: Base, name: str) -> str:
    return (base.lab.vsprov.root / "volumes" / name / "data/sub/file").read_text()


def test_volumes_that_died_while_being_made_are_finished_by_the_next_apply(base: Base, packed: Path) -> None:
    documents = before(packed)
    made = base.make(documents)
    base.remove(documents)

    def mend(step: int) -> None:
        assert Apply(base.lab, documents).run() == 0, f"after step {step}"
        base.holds(made, step)
        assert kept(base, "data") == "kept"
        base.remove(documents)

    assert every_step(base, Apply(base.lab, documents), lambda: None, mend, VOLUMES) > 10


def test_volumes_that_died_while_being_made_can_be_removed(base: Base, packed: Path) -> None:
    documents = before(packed)

    def mend(step: int) -> None:
        assert Apply(base.lab, documents, remove=True).run() == 0, f"after step {step}"
        base.holds(base.empty, step)

    assert every_step(base, Apply(base.lab, documents), lambda: None, mend, VOLUMES) > 10


def test_a_change_of_volumes_that_died_is_finished_by_the_next_apply(base: Base, packed: Path) -> None:
    documents = after(packed)
    base.make(before(packed))
    changed = base.make(documents)
    base.remove(documents)

    def mend(step: int) -> None:
        assert Apply(base.lab, documents).run() == 0, f"after step {step}"
        base.holds(changed, step)
        assert kept(base, "files") == "kept"
        base.remove(documents)

    change = Apply(base.lab, documents)
    assert every_step(base, change, lambda: base.make(before(packed)), mend, VOLUMES) > 8


def test_a_change_of_volumes_that_died_can_be_taken_back(base: Base, packed: Path) -> None:
    """Also the name of a volume: what was renamed before the crash gets its first name again."""
    first = base.make(before(packed))
    documents = before(packed)
    back = (documents[0], volume("data", {"renamedFrom": "files"}, **documents[1]["spec"]), *documents[2:])

    def mend(step: int) -> None:
        assert Apply(base.lab, back).run() == 0, f"after step {step}"
        base.holds(first, step)
        assert kept(base, "data") == "kept"

    change = Apply(base.lab, after(packed))
    assert every_step(base, change, lambda: base.make(documents), mend, VOLUMES) > 8
    base.remove(documents)


def test_a_removal_of_volumes_that_died_is_finished_by_the_next(base: Base, packed: Path) -> None:
    documents = before(packed)

    def mend(step: int) -> None:
        assert Apply(base.lab, documents, remove=True).run() == 0, f"after step {step}"
        base.holds(base.empty, step)

    change = Apply(base.lab, documents, remove=True)
    assert every_step(base, change, lambda: base.make(documents), mend, VOLUMES) >= 5


@pytest.mark.parametrize("moment", ["unpacked", "renamed"])
def test_an_apply_that_dies_while_a_volume_is_filled_leaves_no_half_of_it(
    base: Base, packed: Path, moment: str
) -> None:
    """Within the step: after the archive was unpacked, and right before the directory gets its name."""
    documents = (image(), volume("data", source={"tar": {"path": str(packed)}}))

    def prepare() -> None:
        module, name = (unpacking, "unpack") if moment == "unpacked" else (durable, "flush_all")
        real = getattr(module, name)

        def dying(*words: object, **more: object) -> object:
            real(*words, **more)
            os.kill(os.getpid(), 9)
            return None

        setattr(module, name, dying)

    base.make(documents[:1])
    assert Apply(base.lab, documents).run(prepare) == -9
    folder = base.lab.vsprov.root / "volumes"
    assert [path.name for path in folder.iterdir()] == [".making-data"]
    base.make(documents)
    assert kept(base, "data") == "kept" and [path.name for path in folder.iterdir()] == ["data"]
    base.remove(documents)


# -- limits: files are copied from one place to another


def unlimited(packed: Path) -> tuple[Document, ...]:
    source = {"tar": {"path": str(packed)}}
    return (
        image(),
        volume("data", source=source),
        volume("more", size="64Mi", backend="image", source=source),
        volume("less", size="64Mi", backend="image", source=source),
    )


def limited(packed: Path) -> tuple[Document, ...]:
    """One volume gets a limit, one a lower limit, and one loses its limit."""
    source = {"tar": {"path": str(packed)}}
    return (
        image(),
        volume("data", size="64Mi", backend="image", source=source),
        volume("more", size="32Mi", backend="image", source=source),
        volume("less", source=source),
    )


def all_kept(base: Base, names: tuple[str, ...] = ("data", "more", "less")) -> None:
    instance = Instance(base.lab.vsprov.name, str(base.lab.vsprov.root))
    for name in names:
        with directory.opened(instance, name) as path:
            assert Path(path, "sub/file").read_text() == "kept"


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
def test_a_change_of_limits_that_died_is_finished_by_the_next_apply(base: Base, packed: Path) -> None:
    documents = limited(packed)
    base.make(unlimited(packed))
    changed = base.make(documents)
    base.remove(documents)

    def mend(step: int) -> None:
        all_kept(base)
        assert Apply(base.lab, documents).run() == 0, f"after step {step}"
        all_kept(base)
        base.holds(changed, step)
        base.remove(documents)

    change = Apply(base.lab, documents)
    assert every_step(base, change, lambda: base.make(unlimited(packed)), mend, VOLUMES) > 4


@pytest.mark.requires("loop", "ext4", "mkfs_ext4")
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("module", "name"),
    [(replica, "copy"), (durable, "flush_all"), (durable, "exchange"), (changes, "remove")],
    ids=["copy", "flush", "exchange", "remove"],
)
def test_an_apply_that_dies_while_a_volume_is_copied_loses_no_file(
    base: Base, packed: Path, module: Any, name: str, before: bool
) -> None:
    """Within the step that copies a volume to where it is limited."""

    def prepare() -> None:
        real = getattr(module, name)

        def dying(*words: object, **more: object) -> object:
            if not before:
                real(*words, **more)
            os.kill(os.getpid(), 9)
            return None

        setattr(module, name, dying)

    was = (image(), unlimited(packed)[1])
    wanted = (image(), limited(packed)[1])
    for first, then in ((was, wanted), (wanted, was)):
        made = base.make(then)
        base.remove(then)
        base.make(first)
        assert Apply(base.lab, then).run(prepare) == -9
        wait_until(lambda: not leaks.loops(base.lab.vsprov.folder))
        all_kept(base, ("data",))
        wait_until(lambda: not leaks.loops(base.lab.vsprov.folder))
        assert Apply(base.lab, then).run() == 0
        all_kept(base, ("data",))
        base.holds(made, 0)
        base.remove(then)


def test_a_process_that_uses_a_volume_only_since_the_plan_fails_the_apply_and_harms_nothing(
    base: Base, capfd: pytest.CaptureFixture[str]
) -> None:
    busy = ("sh", "-c", "mkdir -p /data && cd /data && exec sleep infinity")
    documents = (image(), volume("data"), server("live", *busy, mounts=[mounted("data")]))
    base.make(documents)
    init = base.lab.init("live")
    after = (*documents[:2], server("live", *busy))
    assert Apply(base.lab, after).run(lambda: setattr(in_use, "mark", lambda *_: None)) == 1
    assert "unmount volume data from /data: a process of the server uses it" in capfd.readouterr().err
    assert base.lab.init("live") == init and base.lab.is_settled(*documents)
    assert Apply(base.lab, after).run() == 0
    assert base.lab.init("live") != init
    base.remove(after)


@pytest.mark.parametrize("name", ["flush_all", "exchange"])
def test_an_apply_that_dies_while_a_volume_moves_to_a_quota_group_leaves_no_subvolume(
    quota_lab: Lab, packed: Path, name: str
) -> None:
    def prepare() -> None:
        real = getattr(durable, name)

        def dying(*words: object, **more: object) -> None:
            real(*words, **more)
            os.kill(os.getpid(), 9)

        setattr(durable, name, dying)

    was = (image(), volume("data", source={"tar": {"path": str(packed)}}))
    wanted = (image(), volume("data", size="64Mi", backend="qgroup", source=was[1]["spec"]["source"]))
    quota_lab.apply(*was)
    assert Apply(quota_lab, wanted).run(prepare) == -9
    quota_lab.converge(*wanted)
    folder = quota_lab.vsprov.root / "volumes"
    assert [path.name for path in folder.iterdir()] == ["data"]
    assert (folder / "data/data/sub/file").read_text() == "kept"
    wait_until(lambda: len(groups(quota_lab.vsprov.folder)) == 2)  # that of the whole, and that of the volume
