"""Server directories on a real file system: owners, marks, mounts, full disks."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Instance as Own
from tests.kernel.layers import disk
from vsprov.errors import ConflictError, FailedError, HostError
from vsprov.plan.observed import Parts
from vsprov.store import images, servers
from vsprov.store.disk import durable, folders, marks
from vsprov.store.disk.marks import Owner
from vsprov.store.instance import Instance

BASE = 900_000_000
APPLIED = {"spec": {"image": "base", "resources": {"memory": {"max": "64Mi"}}}, "image": "ab" * 32}


@pytest.fixture
def store(instance: Own) -> Iterator[Instance]:
    """The store of an instance of this test's own."""
    yield Instance(instance.name, str(instance.root))
    durable.remove_tree(str(instance.root))


@pytest.fixture
def owner(store: Instance) -> Owner:
    return Owner(store.name, "default")


@pytest.fixture
def small_disk(store: Instance) -> Iterator[Instance]:
    """The same, its root a file system of 96 kB."""
    os.mkdir(store.root)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k,mode=0700", store.name, store.root], check=True)
    try:
        yield store
    finally:
        subprocess.run(["umount", store.root], check=True)


def test_a_made_server_reads_back_and_each_directory_has_its_owner_and_mode(
    store: Instance, owner: Owner
) -> None:
    servers.make(store, "web", owner, BASE, APPLIED)
    servers.flush(store)
    path = f"{store.servers}/web"
    parts = Parts(BASE, (BASE, BASE), (BASE, BASE))
    roots = {part: servers.identity(os.lstat(f"{path}/{part}")) for part in ("upper", "work")}
    assert servers.observe(store) == {
        "web": servers.ServerDirectory("web", path, owner, BASE, APPLIED, "", parts, roots)
    }
    shown = {
        name: (status.st_mode & 0o7777, status.st_uid, status.st_gid)
        for name in ("", "upper", "work", "server.json")
        if (status := os.lstat(f"{path}/{name}"))
    }
    assert shown == {
        "": (0o700, 0, 0),
        "upper": (0o755, BASE, BASE),
        "work": (0o700, BASE, BASE),
        "server.json": (0o600, 0, 0),
    }
    assert os.listdir(store.servers) == ["web"]
    assert servers.id_base(store, "web") == BASE


def test_no_user_of_the_host_can_list_what_is_kept(store: Instance, owner: Owner) -> None:
    servers.make(store, "web", owner, BASE, APPLIED)
    os.chmod(store.root, 0o755)
    for parent in Path(store.root).parents:
        assert parent.stat().st_mode & 0o001 or parent == Path(store.root).parent
    refused = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", "find", store.servers],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert refused.returncode != 0
    assert "Permission denied" in refused.stderr
    assert f"{store.servers}/web" not in refused.stdout


def test_a_server_that_gives_away_its_own_root_directory_keeps_its_id_range(
    store: Instance, owner: Owner
) -> None:
    servers.make(store, "web", owner, BASE, APPLIED)
    os.chown(f"{store.servers}/web/upper", BASE + 1000, BASE + 1000)
    assert servers.observe(store)["web"].id_base == BASE


def test_nothing_that_stands_in_a_servers_place_is_replaced(store: Instance, owner: Owner) -> None:
    servers.make(store, "web", owner, BASE, APPLIED)
    os.mkdir(f"{store.servers}/empty")
    for name in ("web", "empty"):
        with pytest.raises(ConflictError, match="something else already exists there"):
            servers.make(store, name, owner, BASE + 65536, {})
    assert servers.observe(store)["web"].applied == APPLIED
    assert os.listdir(f"{store.servers}/empty") == []
    assert sorted(os.listdir(store.servers)) == ["empty", "web"]


def test_what_an_earlier_making_left_is_made_anew(store: Instance, owner: Owner) -> None:
    servers.make(store, "other", owner, BASE, {})
    os.makedirs(f"{store.servers}/.making-web/upper/junk")
    servers.make(store, "web", owner, BASE, APPLIED)
    assert os.listdir(f"{store.servers}/web/upper") == []
    assert sorted(os.listdir(store.servers)) == ["other", "web"]


def test_an_applied_record_is_replaced_and_damage_to_it_is_told(store: Instance, owner: Owner) -> None:
    servers.make(store, "web", owner, BASE, APPLIED)
    servers.write_applied(store, "web", {"spec": {}})
    assert servers.observe(store)["web"].applied == {"spec": {}}
    path = Path(store.servers, "web/server.json")
    path.write_bytes(path.read_bytes()[:-20])
    seen = servers.observe(store)["web"]
    assert (seen.applied, seen.problem, seen.owner, seen.id_base) == (
        None,
        "server.json is truncated",
        owner,
        BASE,
    )
    servers.write_applied(store, "web", APPLIED, flush=False)
    assert servers.observe(store)["web"].problem == ""


def test_a_discarded_upper_is_empty_and_belongs_to_the_same_ids(store: Instance, owner: Owner) -> None:
    servers.make(store, "web", owner, BASE, APPLIED)
    path = Path(store.servers, "web")
    (path / "upper/etc").mkdir()
    (path / "upper/etc/motd").write_text("x")
    os.chown(path / "upper", BASE + 5, BASE)
    (path / "work/work").mkdir()
    (path / "console.log").write_text("kept")
    servers.discard_upper(store, "web")
    assert sorted(os.listdir(path)) == ["console.log", "server.json", "upper", "work"]
    for name in ("upper", "work"):
        assert os.listdir(path / name) == []
        assert ((path / name).stat().st_uid, (path / name).stat().st_gid) == (BASE, BASE)
    assert os.listdir(store.servers) == ["web"]
    assert servers.observe(store)["web"].applied == APPLIED


def test_a_discarded_upper_that_was_missing_is_there_again(store: Instance, owner: Owner) -> None:
    servers.make(store, "web", owner, BASE, APPLIED)
    os.rmdir(f"{store.servers}/web/upper")
    assert servers.observe(store)["web"].problem == "upper/: No such file or directory"
    servers.discard_upper(store, "web")
    assert servers.observe(store)["web"].problem == ""


def test_a_removed_server_is_gone_and_removing_it_again_is_no_error(store: Instance, owner: Owner) -> None:
    for name in ("web", "db"):
        servers.make(store, name, owner, BASE, APPLIED)
    os.makedirs(f"{store.servers}/web/upper/a/b/c")
    servers.remove(store, "web")
    servers.remove(store, "web")
    assert os.listdir(store.servers) == ["db"]


def test_a_directory_of_nobody_or_of_another_instance_is_never_touched(store: Instance, owner: Owner) -> None:
    servers.make(store, "web", owner, BASE, APPLIED)
    servers.make(store, "theirs", Owner("another", "default"), BASE, APPLIED)
    shutil.copytree(f"{store.servers}/web", f"{store.servers}/copy")
    marks.remove_mark(f"{store.servers}/copy", marks.OWNER)
    for name in ("theirs", "copy"):
        for change in (servers.remove, servers.discard_upper):
            with pytest.raises(ConflictError, match="left untouched"):
                change(store, name)
        with pytest.raises(ConflictError, match="left untouched"):
            servers.write_applied(store, name, {})
    seen = servers.observe(store)
    assert (seen["theirs"].owner, seen["copy"].owner) == (Owner("another", "default"), None)
    assert seen["theirs"].applied == seen["copy"].applied == APPLIED


def test_a_server_in_which_something_is_mounted_is_left_whole(store: Instance, owner: Owner) -> None:
    servers.make(store, "web", owner, BASE, APPLIED)
    point = f"{store.servers}/web/upper/a b"
    os.makedirs(f"{point}/deeper")
    subprocess.run(["mount", "-t", "tmpfs", store.name, point], check=True)
    try:
        Path(point, "kept").write_text("kept")
        for change in (servers.remove, servers.discard_upper):
            with pytest.raises(FailedError) as refused:
                change(store, "web")
            assert str(refused.value) == f"{store.servers}/web: remove: {point} is still mounted"
        assert Path(point, "kept").read_text() == "kept"
        assert os.listdir(store.servers) == ["web"]
    finally:
        subprocess.run(["umount", point], check=True)
    servers.remove(store, "web")
    assert os.listdir(store.servers) == []


def test_a_mount_made_after_the_table_was_read_stops_the_removal(store: Instance) -> None:
    os.makedirs(f"{store.root}/tree/point")
    subprocess.run(["mount", "-t", "tmpfs", store.name, f"{store.root}/tree/point"], check=True)
    try:
        os.mkdir(f"{store.root}/tree/point/kept")
        with pytest.raises(OSError, match="Device or resource busy"):
            durable._empty(f"{store.root}/tree", os.open(f"{store.root}/tree", os.O_RDONLY))
        assert os.listdir(f"{store.root}/tree/point") == ["kept"]
    finally:
        subprocess.run(["umount", f"{store.root}/tree/point"], check=True)


def test_overlay_takes_a_servers_directories_again_and_again(store: Instance, owner: Owner) -> None:
    servers.make(store, "web", owner, BASE, APPLIED)
    os.makedirs(f"{store.root}/lower/etc")
    os.mkdir(f"{store.root}/merged")
    path = f"{store.servers}/web"
    options = f"lowerdir={store.root}/lower,upperdir={path}/upper,workdir={path}/work"
    script = f"mount -t overlay none {store.root}/merged -o {options} && chown {BASE + 7} {store.root}/merged"
    for _ in range(2):
        subprocess.run(["unshare", "--mount", "sh", "-ec", script], check=True)
        assert os.lstat(f"{path}/upper").st_uid == BASE + 7
        seen = servers.observe(store)["web"]
        assert (seen.owner, seen.id_base, seen.applied, seen.problem) == (owner, BASE, APPLIED, "")
        assert seen.parts == Parts(BASE, (BASE + 7, BASE), (BASE, BASE))
        servers.discard_upper(store, "web")
        assert os.lstat(f"{path}/upper").st_uid == BASE


def test_marks_read_back_and_vanish(store: Instance) -> None:
    os.mkdir(store.root)
    assert marks.read_mark(store.root, "init") is None
    marks.write_mark(store.root, "init", "12 34 é")
    assert marks.read_mark(store.root, "init") == "12 34 é"
    fd = os.open(store.root, os.O_RDONLY)
    marks.write_owner(fd, Owner("a", "b/c"), store.root)
    assert marks.read_owner(fd) == marks.read_owner(store.root) == Owner("a", "b/c")
    os.close(fd)
    for senseless in ("", "a", "/b", "a/"):
        marks.write_mark(store.root, marks.OWNER, senseless)
        assert marks.read_owner(store.root) is None
    marks.remove_mark(store.root, "init")
    marks.remove_mark(store.root, "init")
    assert marks.read_mark(store.root, "init") is None
    with pytest.raises(FileNotFoundError):
        marks.read_owner(f"{store.root}/none")


def test_a_mark_is_on_the_symbolic_link_and_not_behind_it(store: Instance) -> None:
    os.mkdir(store.root)
    os.symlink(store.root, f"{store.root}/link")
    marks.write_owner(store.root, Owner("a", "b"))
    assert marks.read_owner(f"{store.root}/link") is None


def test_a_file_system_without_such_attributes_is_named_with_what_else_needs_them() -> None:
    with pytest.raises(HostError) as refused:
        marks.write_mark("/proc/self", "owner", "x")
    assert str(refused.value) == "/proc/self: mark trusted.vsprov.owner: Operation not supported"
    assert "overlay" in refused.value.hint
    assert marks.read_mark("/proc/self", "owner") is None


def test_on_a_full_disk_a_write_of_any_size_is_whole_or_not_there(small_disk: Instance, owner: Owner) -> None:
    servers.make(small_disk, "web", owner, BASE, APPLIED)
    path = Path(small_disk.servers, "web/server.json")
    written = 0
    for size in (1, 1000, 4000, 4096, 5000, 20_000, 40_000, 60_000, 90_000, 200_000, 10):
        before = servers.observe(small_disk)["web"].applied
        wanted = {"text": "x" * size}
        try:
            servers.write_applied(small_disk, "web", wanted)
            written += 1
        except FailedError as error:
            assert "No space left on device" in str(error)
            assert "free some space" in error.hint
            wanted = before or {}
        assert servers.observe(small_disk)["web"].applied == wanted
        assert sorted(os.listdir(path.parent)) == ["server.json", "upper", "work"]
    assert 0 < written < 11


def test_on_a_full_disk_no_server_is_half_made(small_disk: Instance, owner: Owner) -> None:
    servers.make(small_disk, "web", owner, BASE, APPLIED)
    with (
        open(f"{small_disk.root}/filler", "wb", buffering=0) as file,
        pytest.raises(OSError, match="No space"),
    ):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(FailedError, match="No space left on device"):
        servers.make(small_disk, "db", owner, BASE + 65536, APPLIED)
    assert os.listdir(small_disk.servers) == ["web"]
    assert servers.sweep(small_disk) == []


def test_on_a_read_only_disk_everything_can_be_seen_and_nothing_changes(
    small_disk: Instance, owner: Owner
) -> None:
    servers.make(small_disk, "web", owner, BASE, APPLIED)
    seen = servers.observe(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk.root], check=True)
    for change in (
        lambda: servers.make(small_disk, "db", owner, BASE, {}),
        lambda: servers.write_applied(small_disk, "web", {}),
        lambda: servers.discard_upper(small_disk, "web"),
        lambda: servers.remove(small_disk, "web"),
    ):
        with pytest.raises(FailedError, match="Read-only file system"):
            change()
    assert servers.observe(small_disk) == seen
    assert images.observe(small_disk) == {}


@pytest.mark.slow
def test_a_maker_killed_at_any_moment_leaves_whole_servers_and_what_the_sweep_removes(
    store: Instance, owner: Owner
) -> None:
    program = (
        "import sys\n"
        "from vsprov.store import servers\n"
        "from vsprov.store.instance import Instance\n"
        "from vsprov.store.disk.marks import Owner\n"
        "store = Instance(sys.argv[1], sys.argv[2])\n"
        "for round in range(10**6):\n"
        "    name = f's{round % 7}'\n"
        "    servers.make(store, name, Owner(store.name, 'default'), 900000000, {'round': round})\n"
        "    servers.write_applied(store, name, {'round': round}, flush=False)\n"
        "    servers.discard_upper(store, name)\n"
        "    servers.remove(store, name)\n"
        "    if round == 0:\n"
        "        print(flush=True)\n"  # all modules are loaded: loading them takes longer than the rest
    )
    swept = 0
    for seed in range(25):
        with subprocess.Popen(
            [sys.executable, "-c", program, store.name, store.root], stdout=subprocess.PIPE
        ) as maker:
            assert maker.stdout is not None
            maker.stdout.readline()
            time.sleep(random.Random(seed).uniform(0.001, 0.03))
            maker.kill()
        for seen in servers.observe(store).values():
            assert (seen.problem, seen.owner, seen.id_base) == ("", owner, BASE)
            assert isinstance((seen.applied or {})["round"], int)
        swept += len(servers.sweep(store))
        for name in servers.observe(store):
            servers.remove(store, name)
        assert os.listdir(store.servers) == []
    assert swept > 0


@pytest.mark.requires("ext4", "loop", "mkfs_ext4")
def test_ext4_places_servers_and_layers_in_block_groups_of_their_own(store: Instance) -> None:
    os.mkdir(store.root, 0o700)
    with disk("ext4", Path(store.root) / "disk", 64 << 20) as point:
        inside = Instance(store.name, str(point))
        os.chmod(point, 0o700)
        folders.prepare(inside)
        shown = subprocess.run(["lsattr", "-d", inside.servers, inside.layers, inside.images],
                               check=True, capture_output=True, text=True).stdout  # fmt: skip
    attributes = [line.split()[0] for line in shown.splitlines()]
    assert ["T" in each for each in attributes] == [True, True, False]


def test_a_file_system_without_block_groups_needs_no_attribute(small_disk: Instance, owner: Owner) -> None:
    servers.make(small_disk, "web", owner, BASE, APPLIED)
    assert servers.observe(small_disk)["web"].owner == owner
