"""The power fails in the middle of what changes files: what was there before is there afterwards, what a
command has reported as done is done, and the next command needs no help.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import archives
from tests.e2e.builds import is_whole, top
from tests.effort import LONG, worth_trying
from tests.fault.faults import Apply
from tests.fault.killing import calls, leftovers, listed
from tests.fault.power import Power, on_disk
from tests.features import requires
from tests.lab import Document, image, mounted, server, volume
from vsprov.engine.apply.report import Silent
from vsprov.engine.images import commit as committing
from vsprov.engine.servers.files import clone as cloning
from vsprov.engine.servers.files import restore as restoring
from vsprov.engine.servers.files import snapshots
from vsprov.engine.servers.files.restore import ChosenVolumes
from vsprov.engine.transfer import exporting, importing
from vsprov.engine.transfer.package import Choice
from vsprov.engine.work import WorkOptions
from vsprov.manifest.load import load_documents
from vsprov.store.disk.output_file import opened_output
from vsprov.store.instance import Instance

Work = Callable[[Instance], object]
RENAMES = ("renameat2", "rename", "link")
VOLUMES = ("--volume", "data", "--volume", "own")
AS_WEB4 = ("--name", "web4", "--volume", "data=data4", "--volume", "own=own4")
SEEN = "cat /srv/twin /data/file /own/file; stat -c %u /data/file; test ! -e /etc/passwd"
NEW, OLD = "new\nnew\nnew\n44\n", "old\nold\nold\n44\n"


def documents(*more: Document, data: str = "data", size: str = "16Mi") -> tuple[Document, ...]:
    renamed = {"renamedFrom": "data"} if data != "data" else None
    return (
        image(),
        volume(data, renamed),
        volume("own", size=size, backend="image"),
        server("web1", mounts=[mounted(data), mounted("own", "/own")], state="Stopped"),
        *more,
    )


STOPPED = documents(server("web2", state="Stopped"))


@pytest.fixture(scope="module", params=["ext4", "btrfs", "xfs"])
def power(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Power]:
    """web1 has a snapshot, `old`, of itself and its volumes, and there are an image, `saved`, and an export
    of it; since then, it has written "new". web2 has nothing but its files.
    """
    kind = request.param
    requires("overlay", "loop", "btrfs", "mkfs_btrfs", "mkfs_ext4", kind, f"mkfs_{kind}")
    with on_disk(kind, tmp_path_factory.mktemp("power")) as power:
        lab = power.lab
        lab.apply(*STOPPED)
        lab.vsprov("start", "web1", "web2")
        lab.shell("web1", "cd /srv; echo old > file; ln file twin; ln -s file link; mkfifo pipe")
        lab.shell("web1", "rm /etc/passwd; echo old > /data/file; echo old > /own/file; chown 44 /data/file")
        lab.shell("web2", "echo kept > /srv/kept")
        lab.vsprov("snapshot", "create", "web1", "old")
        lab.vsprov("commit", "web1", "saved")
        lab.vsprov("export", "web1", power.exported)
        lab.shell("web1", "for each in /srv /data /own; do echo new > $each/file; done")
        lab.vsprov("stop", "web1", "web2")
        assert lab.is_settled(*STOPPED)
        power.prepared()
        yield power
        power.begin()


def cuts(power: Power, work: Work) -> Iterator[tuple[str, bool]]:
    """Cut the power after calls of the kernel that the work makes, and in the end after all of it: the call,
    and whether the work was done. A long run tries all of them; a usual one, on other
    file systems than ext4, only those around the last renames.
    """
    power.begin()
    steps = calls(power.lab, work)
    last = {name: number for number, name in enumerate(steps, 1) if name in RENAMES}.values()
    some = worth_trying(steps) if LONG or power.disk.kind == "ext4" else []
    for number in sorted({*some, *last, *(place - 1 for place in last)} - {0}):
        ended = power.cut_after(work, number)
        yield f"{number} {steps[number - 1]}", ended == 0
    assert power.cut_after(work, 0) == 0
    yield "the end", True


def seen(power: Power, name: str = "web1") -> str:
    power.lab.vsprov("start", name)
    return power.lab.shell(name, SEEN)


def snapshot(instance: Instance) -> object:
    return snapshots.create(instance, "web1", "new", Silent(), WorkOptions())


def test_a_snapshot_has_all_files_of_the_server_and_its_volumes_or_does_not_exist(power: Power) -> None:
    for where, done in cuts(power, snapshot):
        lab = power.lab
        made = listed(lab)
        assert made in (["old"], ["new", "old"], ["old", "new"]), (where, made)
        assert not done or len(made) == 2, where
        if len(made) == 1:
            lab.vsprov("snapshot", "create", "web1", "new")
        lab.vsprov("snapshot", "restore", "web1", "new", "-y", *VOLUMES)
        assert seen(power) == NEW, where
        lab.vsprov("stop", "web1")
        lab.vsprov("snapshot", "restore", "web1", "old", "-y", *VOLUMES)
        assert seen(power) == OLD, where
        assert leftovers(lab) == [], where


def restore(instance: Instance) -> object:
    chosen = ChosenVolumes(named=("data", "own"))
    return restoring.restore(instance, "web1", "old", Silent(), WorkOptions(), chosen)


def test_a_restore_has_exchanged_all_files_or_none(power: Power) -> None:
    found = set()
    for where, done in cuts(power, restore):
        lab = power.lab
        lab.vsprov("start", "web1")
        files = lab.shell("web1", SEEN)
        assert files in (OLD, NEW), (where, files)
        assert not done or files == OLD
        assert leftovers(lab) == [], where
        assert "old" in listed(lab)
        found.add(files)
    assert len(found) == 2


def remove_snapshot(instance: Instance) -> None:
    snapshots.remove(instance, "web1", ["old"], Silent(), WorkOptions())


def test_a_snapshot_that_is_being_removed_is_whole_or_gone(power: Power) -> None:
    for where, _ in cuts(power, remove_snapshot):
        lab = power.lab
        left = listed(lab)
        assert left in (["old"], []), where
        if left:
            lab.vsprov("snapshot", "restore", "web1", "old", "-y", *VOLUMES)
        assert seen(power) == (OLD if left else NEW), where
        assert leftovers(lab) == [], where


def clone(instance: Instance) -> object:
    return cloning.clone(instance, "web1", "web3", "", Silent(), WorkOptions())


def test_a_clone_has_all_files_or_does_not_exist(power: Power) -> None:
    for where, done in cuts(power, clone):
        lab = power.lab
        assert seen(power) == NEW
        if not lab.directory("web3").exists():
            assert not done
            lab.vsprov("clone", "web1", "web3")
        assert seen(power, "web3") == NEW, where
        assert leftovers(lab) == [], where
        assert sorted(os.listdir(lab.vsprov.root / "volumes")) == ["data", "data-web3", "own", "own-web3"]


def test_the_file_of_an_export_is_the_old_one_or_the_new_one(power: Power) -> None:
    target = power.exported

    def export(instance: Instance) -> object:
        with opened_output(str(target), "the export", replace=True) as fd:
            return exporting.export(instance, "web1", fd, Silent(), WorkOptions())

    for where, done in cuts(power, export):
        lab = power.lab
        assert seen(power) == NEW
        lab.vsprov("import", target, *AS_WEB4)
        found = seen(power, "web4")
        assert found in (OLD, NEW), where
        assert not done or found == NEW, where
        assert leftovers(lab) == [], where
        lab.vsprov("export", "web1", target, "--force")


def test_an_import_has_all_files_or_does_not_exist(power: Power) -> None:
    target = power.exported

    def bring_in(instance: Instance) -> object:
        with open(target, "rb") as file:
            choice = Choice(name="web4", volumes={"data": "data4", "own": "own4"})
            return importing.import_server(
                instance, file.fileno(), "it", "default", choice, Silent(), WorkOptions()
            )

    for where, done in cuts(power, bring_in):
        lab = power.lab
        assert seen(power) == NEW
        if not lab.directory("web4").exists():
            assert not done
            lab.vsprov("import", target, *AS_WEB4)
        assert seen(power, "web4") == OLD, where
        assert leftovers(lab) == [], where
        transfers = lab.vsprov.root / "transfers"
        assert not transfers.exists() or os.listdir(transfers) == [], where


def commit(instance: Instance) -> object:
    options = committing.Options(replace=True)
    return committing.commit(instance, "web1", "saved", options, Silent(), WorkOptions())


def test_a_commit_leaves_the_old_image_or_the_new_one(power: Power) -> None:
    for where, done in cuts(power, commit):
        lab = power.lab
        assert seen(power) == NEW
        is_whole(lab)
        content = (top(lab, "saved") / "srv/twin").read_text()
        assert content in ("old\n", "new\n"), where
        assert not done or content == "new\n", where
        lab.vsprov("commit", "web1", "saved", "--replace")
        assert (top(lab, "saved") / "srv/twin").read_text() == "new\n"
        is_whole(lab)


def test_the_next_apply_finishes_volumes_names_and_disk_limits(power: Power, tmp_path: Path) -> None:
    packed = tmp_path / "files.tar"
    packed.write_bytes(archives.packed(archives.folder("sub"), archives.member("sub/file", b"kept")))
    backend = "qgroup" if power.disk.kind == "btrfs" else "image"
    wanted = documents(
        server("web2", resources={"disk": {"space": "48Mi", "backend": backend}}, state="Stopped"),
        volume("filled", source={"tar": {"path": str(packed)}}),
        volume("boxed", source={"tar": {"path": str(packed)}}, size="16Mi", backend="image"),
        data="files",
        size="24Mi",
    )
    change = Apply(power.lab, wanted)

    def work(instance: Instance) -> object:
        assert change.here(load_documents(list(wanted)).objects) == 0
        return None

    for where, _ in cuts(power, work):
        lab = power.lab
        lab.apply(*wanted)
        assert lab.is_settled(*wanted), where
        assert seen(power) == NEW, where
        lab.vsprov("start", "web2")
        assert lab.shell("web2", "cat /srv/kept") == "kept\n", where
        assert (lab.vsprov.root / "volumes/filled/data/sub/file").read_text() == "kept"
        assert leftovers(lab) == [], where


def test_the_next_destroy_removes_the_rest(power: Power) -> None:
    change = Apply(power.lab, STOPPED, remove=True)

    def work(instance: Instance) -> object:
        return change.here(())

    for where, _ in cuts(power, work):
        assert change.run() == 0, where
        assert leftovers(power.lab) == [], where
        for part in ("servers", "volumes"):
            found = power.lab.vsprov.root / part
            assert not found.exists() or os.listdir(found) == [], where
