"""cp: files between the host and a server, in both directions."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.instance import own_instance
from tests.lab import Lab, image, server

HOST = image()


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with own_instance() as instance:
        made = Lab(instance)
        made.apply(HOST, server("web1"), server("still", state="Stopped"))
        yield made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory: a file of two names, a link, an executable, a sparse file, a directory of uid 33."""
    top = tmp_path / "site"
    (top / "sub").mkdir(parents=True)
    (top / "a").write_text("one\n")
    os.utime(top / "a", ns=(0, 1_600_000_000_123_456_789))
    os.link(top / "a", top / "sub/b")
    (top / "l").symlink_to("a")
    (top / "run").write_text("#!/bin/sh\n")
    (top / "run").chmod(0o4755)
    with open(top / "sparse", "wb") as file:
        file.seek(8 << 20)
        file.write(b"x")
    os.chown(top / "sub", 33, 33)
    os.setxattr(top / "a", "user.note", b"kept")
    return top


def inside(lab: Lab, name: str, path: str) -> Path:
    """A path in a running server, as the host reaches it."""
    return Path(f"/proc/{lab.init(name).pid}/root{path}")


def base(lab: Lab, name: str) -> int:
    return os.stat(lab.directory(name) / "work").st_uid


@pytest.mark.vm_subset
def test_a_directory_gets_into_a_running_server_and_belongs_to_its_root(shared: Lab, tree: Path) -> None:
    shared.vsprov("cp", tree, "web1:/srv")
    top, first = inside(shared, "web1", "/srv/site"), base(shared, "web1")
    found = os.lstat(top / "a")
    assert (found.st_uid, found.st_gid, found.st_nlink) == (first, first, 2)
    assert found.st_mtime_ns == 1_600_000_000_123_456_789
    assert os.getxattr(top / "a", "user.note") == b"kept"
    assert os.readlink(top / "l") == "a"
    assert stat.S_IMODE(os.stat(top / "run").st_mode) == 0o755
    sparse = os.stat(top / "sparse")
    assert sparse.st_size == (8 << 20) + 1 and sparse.st_blocks * 512 < 1 << 20
    assert os.stat(top / "sub").st_uid == first
    assert shared.run("web1", "cat", "/srv/site/sub/b").stdout == "one\n"


def test_with_archive_the_owners_and_setuid_are_those_of_the_host(shared: Lab, tree: Path) -> None:
    shared.vsprov("cp", "-a", tree, "web1:/srv/kept")
    top, first = inside(shared, "web1", "/srv/kept"), base(shared, "web1")
    assert os.stat(top / "sub").st_uid == first + 33
    assert stat.S_IMODE(os.stat(top / "run").st_mode) == 0o4755


def test_an_id_that_no_server_has_is_refused_with_archive(shared: Lab, tree: Path) -> None:
    os.chown(tree / "a", 70000, 70000)
    done = shared.vsprov("cp", "-a", tree, "web1:/srv/refused", check=False)
    assert (
        done.returncode == 1 and "belongs to 70000:70000; the highest id in a server is 65535" in done.stderr
    )
    shared.vsprov("cp", tree, "web1:/srv/allowed")


@pytest.mark.vm_subset
def test_what_gets_out_of_a_server_belongs_to_who_asked_and_has_no_rights(
    shared: Lab, tmp_path: Path
) -> None:
    script = (
        "mkdir -p /srv/out/d; cd /srv/out; echo x > f; chown 33:33 f d; chmod 4755 f; ln -s /etc/shadow l"
    )
    shared.shell("web1", script)
    done = shared.vsprov("cp", "web1:/srv/out", tmp_path / "copy")
    assert {each.name for each in (tmp_path / "copy").iterdir()} == {"d", "f", "l"}
    found = os.stat(tmp_path / "copy/f")
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o755)
    assert os.readlink(tmp_path / "copy/l") == "/etc/shadow"
    assert "without setuid, setgid and capabilities: 'out/f'" in done.stderr
    shared.vsprov("cp", "-a", "web1:/srv/out/f", tmp_path / "kept")
    found = os.stat(tmp_path / "kept")
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (33, 0o755)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy", "kept"]  # and nothing temporary


def test_a_stopped_server_gives_and_takes_files_and_stays_stopped(shared: Lab, tree: Path) -> None:
    shared.vsprov("cp", tree, "still:/srv")
    shared.vsprov("cp", "still:/srv/site/sub/b", tree / "back")
    assert (tree / "back").read_text() == "one\n"
    assert os.stat(shared.directory("still") / "upper/srv/site/a").st_uid == base(shared, "still")
    shared.vsprov("cp", "still:/usr/bin/env", tree / "env")  # of a lower layer
    assert (tree / "env").read_bytes() == Path("/usr/bin/env").read_bytes()
    assert shared.processes("still") == []
    assert shared.is_settled(HOST, server("web1"), server("still", state="Stopped"))


def test_an_archive_is_read_from_standard_input_and_written_to_standard_output(
    shared: Lab, tree: Path
) -> None:
    shared.shell("web1", "mkdir -p /srv/tar")
    packed = subprocess.run(["tar", "cz", "-C", tree, "."], check=True, capture_output=True).stdout
    command = shared.vsprov.command("cp", "-a", "-", "web1:/srv/tar")
    subprocess.run(command, env=shared.vsprov.environment, input=packed, check=True)
    assert os.stat(inside(shared, "web1", "/srv/tar/sub")).st_uid == base(shared, "web1") + 33
    command = shared.vsprov.command("cp", "web1:/srv/tar", "-")
    done = subprocess.run(command, env=shared.vsprov.environment, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert {each.name: each.uid for each in archive} == {
            "tar": 0, "tar/a": 0, "tar/l": 0, "tar/run": 0, "tar/sparse": 0, "tar/sub": 33, "tar/sub/b": 0,
        }  # fmt: skip
        assert archive.getmember("tar/sub/b").linkname == "tar/a"


@pytest.mark.parametrize(
    ("source", "target", "made"),
    [
        ("site/a", "/srv/case/dir", "dir/a"),
        ("site/a", "/srv/case/new", "new"),
        ("site/a", "/srv/case/file", "file"),
        ("site/a", "/srv/case/to-dir", "dir/a"),
        ("site/a", "/srv/case/to-file", "file"),
        ("site/sub", "/srv/case/dir", "dir/sub/b"),
        ("site/sub/", "/srv/case/new", "new/b"),
        ("site/sub/.", "/srv/case/dir", "dir/b"),
        ("site/sub", "/srv/case/new/", "new/b"),
        ("site/sub", "srv/case/../case/./to-dir", "dir/sub/b"),
        ("site/l", "/srv/case/new", "new"),
    ],
)
def test_a_copy_goes_where_cp_would_put_it(
    shared: Lab, tree: Path, source: str, target: str, made: str
) -> None:
    shared.shell("web1", "rm -rf /srv/case; mkdir -p /srv/case/dir; cd /srv/case; echo old > file")
    shared.shell("web1", "cd /srv/case; ln -s dir to-dir; ln -s /srv/case/file to-file")
    shared.vsprov("cp", f"{tree.parent}/{source}", f"web1:{target}")
    if source == "site/l":
        assert shared.shell("web1", f"readlink /srv/case/{made}") == "a\n"
    else:
        assert shared.shell("web1", f"cat /srv/case/{made}") == "one\n"
    assert shared.shell("web1", "readlink /srv/case/to-dir /srv/case/to-file") == "dir\n/srv/case/file\n"


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("site/a", "web1:/absent/file", "'/absent': no such directory"),
        ("site/a", "web1:/srv/new/", "'/srv/new/': no such directory"),
        ("site/sub", "web1:/etc/passwd", "'/etc/passwd': is not a directory"),
        ("site/a", "web1:/etc/passwd/", "'/etc/passwd/': is not a directory"),
        ("absent", "web1:/srv", "absent: No such file or directory"),
        ("web1:/absent", "copy", "Server/web1: read: /absent: No such file or directory"),
        ("web1:/etc/passwd/", "copy", "Server/web1: read: /etc/passwd/: Not a directory"),
        ("web1:/etc/passwd", "absent/copy", "absent': no such directory"),
        ("site/a", "nobody:/srv", "Server/nobody"),
    ],
)
def test_what_cannot_be_copied_is_refused_with_its_name(
    shared: Lab, tree: Path, source: str, target: str, message: str
) -> None:
    words = [each if ":" in each else f"{tree.parent}/{each}" for each in (source, target)]
    done = shared.vsprov("cp", *words, check=False)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert [each.name for each in tree.parent.iterdir()] == ["site"]


@pytest.mark.parametrize("words", [("a", "b"), ("web1:/a", "still:/b"), ("web1:", "b"), ("-", "-")])
def test_exactly_one_place_has_to_be_in_a_server(shared: Lab, words: tuple[str, str]) -> None:
    assert shared.vsprov("cp", *words, check=False).returncode == 64


def test_a_file_that_runs_is_replaced_and_readers_of_the_old_one_keep_it(shared: Lab, tree: Path) -> None:
    shared.shell("web1", "cp /bin/sleep /srv/program; /srv/program 1000 > /dev/null 2>&1 & echo")
    shared.vsprov("cp", tree / "a", "web1:/srv/program")
    assert shared.shell("web1", "cat /srv/program; ls -A /srv | grep vsprov || true") == "one\n"


def test_special_files_are_left_out_and_named(shared: Lab, tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    done = shared.vsprov("cp", tree, "web1:/srv/special", "-o", "json")
    assert json.loads(done.stdout)["leftOut"] == 1
    assert "'site/pipe' (a FIFO)" in done.stderr
    shared.shell("web1", "mkfifo /srv/special/other")
    assert "'special/other' (a FIFO)" in shared.vsprov("cp", "web1:/srv/special", tree / "back").stderr


def test_a_special_file_alone_cannot_be_copied(shared: Lab, tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    for source, target in (("web1:/dev/zero", tree / "new"), (tree / "pipe", "web1:/srv/pipe")):
        done = shared.vsprov("cp", source, target, check=False)
        assert done.returncode == 1 and (
            ": is a character device" in done.stderr or ": is a FIFO" in done.stderr
        )
    assert not os.path.lexists(tree / "new") and not inside(shared, "web1", "/srv/pipe").exists()


def test_no_special_file_of_the_host_or_of_a_server_is_replaced(shared: Lab, tree: Path) -> None:
    shared.shell("web1", "mkdir /srv/pipes; mkfifo /srv/pipes/pipe; echo x > /srv/file")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    done = shared.vsprov("cp", "web1:/srv/file", tree / "null", check=False)
    assert done.returncode == 1 and f"{tree}/null: copy: is a character device" in done.stderr
    assert stat.S_ISCHR(os.lstat(tree / "null").st_mode)
    done = shared.vsprov("cp", tree / "a", "web1:/srv/pipes/pipe", check=False)
    assert done.returncode == 1 and "'/srv/pipes/pipe': is a FIFO" in done.stderr
    assert shared.shell("web1", "ls -A /srv/pipes; test -p /srv/pipes/pipe") == "pipe\n"


def test_a_file_that_is_mounted_in_a_server_stays_mounted(shared: Lab, tree: Path) -> None:
    before = shared.shell("web1", "cat /etc/hosts; grep -c ' /etc/hosts ' /proc/self/mountinfo")
    for target in ("/etc/hosts", "/dev/null"):
        done = shared.vsprov("cp", tree / "a", f"web1:{target}", check=False)
        assert done.returncode == 1 and f"'{target}': is a" in done.stderr
    assert shared.shell("web1", "cat /etc/hosts; grep -c ' /etc/hosts ' /proc/self/mountinfo") == before
    assert shared.shell("web1", "test -c /dev/null; ls -A /etc /dev | grep vsprov || true") == ""


def test_an_open_file_of_the_command_is_no_place_for_a_copy(shared: Lab, tmp_path: Path) -> None:
    with open(tmp_path / "log", "w+") as log:
        log.write("earlier\n")
        log.flush()
        command = shared.vsprov.command("cp", "web1:/etc/hostname", "/dev/stdout")
        done = subprocess.run(command, env=shared.vsprov.environment, stdout=log, stderr=subprocess.PIPE)
    assert done.returncode == 64 and b"/dev/stdout: is a file that is open already" in done.stderr
    assert (tmp_path / "log").read_text() == "earlier\n"


def test_a_directory_takes_no_file_from_its_place(shared: Lab, tree: Path) -> None:
    shared.shell("web1", "rm -rf /srv/over; mkdir -p /srv/over/a")
    done = shared.vsprov("cp", "web1:/srv/over/.", tree, check=False)
    assert done.returncode == 1 and f"{tree}/a: copy: is not a directory" in done.stderr
    assert (tree / "a").read_text() == "one\n"


def test_a_damaged_archive_is_refused(shared: Lab) -> None:
    for given, message in ((b"no archive", "not a tar archive"), (b"\x1f\x8b" + bytes(20), "damaged")):
        command = shared.vsprov.command("cp", "-", "web1:/srv")
        done = subprocess.run(command, env=shared.vsprov.environment, input=given, capture_output=True)
        assert done.returncode == 1 and message in done.stderr.decode()
        assert "vsprov: standard input to Server/web1: it is damaged" in done.stderr.decode()


def test_holes_are_neither_read_nor_sent_nor_written(shared: Lab, tmp_path: Path) -> None:
    """A file that would take an hour if they were."""
    with open(tmp_path / "holed", "wb") as file:
        for at in (1 << 20, 5 << 40):
            file.seek(at)
            file.write(b"data")
        file.truncate(6 << 40)
    (tmp_path / "next").write_text("next")
    shared.vsprov("cp", f"{tmp_path}/.", "web1:/srv/holes")
    shared.vsprov("cp", "web1:/srv/holes", tmp_path / "back")
    for top in (inside(shared, "web1", "/srv/holes"), tmp_path / "back"):
        with open(top / "holed", "rb") as file:
            for at in (1 << 20, 5 << 40):
                assert os.pread(file.fileno(), 6, at - 1) == b"\0data\0"
            status = os.fstat(file.fileno())
        assert status.st_size == 6 << 40 and status.st_blocks * 512 <= 1 << 16
        assert (top / "next").read_text() == "next"


def test_an_archive_on_standard_output_is_one_that_any_program_reads(shared: Lab) -> None:
    shared.shell("web1", "truncate -s 3M /srv/hole; printf x >> /srv/hole")
    command = shared.vsprov.command("cp", "web1:/srv/hole", "-")
    done = subprocess.run(command, env=shared.vsprov.environment, capture_output=True, check=True)
    assert len(done.stdout) > 3 << 20 and b"GNU.sparse" not in done.stdout
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        content = archive.extractfile("hole")
        assert content is not None and content.read() == bytes(3 << 20) + b"x"


def test_files_of_the_kernel_are_named_in_errors_and_directories_without_attributes_are_copied(
    shared: Lab, tmp_path: Path
) -> None:
    done = shared.vsprov("cp", "web1:/sys/kernel/mm", tmp_path / "mm", check=False)
    assert done.returncode == 1
    assert re.search(r"^vsprov: Server/web1: read: mm/\S+: [A-Z]", done.stderr, re.MULTILINE), done.stderr
    shared.vsprov("cp", "web1:/sys/kernel/debug", tmp_path / "debug")  # listxattr(2): EOPNOTSUPP
    assert os.listdir(tmp_path) == ["debug"]


def test_attributes_of_users_are_copied_whatever_their_names(shared: Lab, tmp_path: Path) -> None:
    """Also those of an overlay that somebody has mounted with userxattr, overlayfs.rst."""
    attributes = {"user.overlay.opaque": b"y", "user.a=b": b"=", "user.a%3Db": b"%"}
    (tmp_path / "layer").mkdir()
    for key, value in attributes.items():
        os.setxattr(tmp_path / "layer", key, value)
    shared.vsprov("cp", tmp_path / "layer", "web1:/srv")
    shared.vsprov("cp", "web1:/srv/layer", tmp_path / "back")
    for path in (inside(shared, "web1", "/srv/layer"), tmp_path / "back"):
        assert {key: os.getxattr(path, key) for key in os.listxattr(path)} == attributes


def test_a_server_can_be_copied_to_and_from_while_it_is_frozen(lab: Lab, tree: Path) -> None:
    lab.apply(HOST, server("web1"))
    lab.vsprov("freeze", "web1")
    lab.vsprov("cp", tree / "a", "web1:/srv/a")
    lab.vsprov("cp", "web1:/srv/a", tree / "back")
    assert (tree / "back").read_text() == "one\n"


def test_what_does_not_fit_is_an_error_and_leaves_no_part_of_a_file(lab: Lab, tree: Path) -> None:
    (tree / "large").write_bytes(os.urandom(2 << 20))
    lab.apply(HOST, server("web1", mounts=[{"type": "tmpfs", "target": "/small", "size": "1Mi"}]))
    done = lab.vsprov("cp", tree / "large", "web1:/small", check=False)
    assert done.returncode == 1 and "No space left on device" in done.stderr
    assert lab.shell("web1", "ls -A /small") == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_copy_leaves_the_old_file_and_no_part_of_the_new_one(
    shared: Lab, number: int, code: int
) -> None:
    shared.shell("web1", "mkdir -p /srv/cut; echo old > /srv/cut/large")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo("large")
        info.size = 8 << 20
        archive.addfile(info, io.BytesIO(b"x" * info.size))
    top = inside(shared, "web1", "/srv/cut")
    command = shared.vsprov.command("cp", "-", "web1:/srv/cut")
    with subprocess.Popen(
        command, env=shared.vsprov.environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdin is not None and running.stderr is not None
        running.stdin.write(packed.getvalue()[: 4 << 20])
        running.stdin.flush()
        shared.wait_until(lambda: len(os.listdir(top)) == 2)
        running.send_signal(number)
        said = running.stderr.read().decode()
    assert running.returncode == code, said
    shared.wait_until(lambda: len(os.listdir(top)) == 1)
    assert os.listdir(top) == ["large"] and (top / "large").read_text() == "old\n"
