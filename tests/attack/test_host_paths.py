"""Files of the host that a manifest names and that a server, or a user of the host, could have changed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Document, Lab, image, server, to_yaml

USER = 12345
AS_USER = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder of the host that no server was given."""
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "file").write_text("of the host")
    return folder


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user of the host can reach."""
    folder = Path(f"/srv/vsprov-test-{os.getpid()}")
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def bind(source: Path, target: str = "/data", **keys: object) -> Document:
    return {"type": "bind", "source": str(source), "target": target, **keys}


def owned(path: Path, uid: int = USER) -> Path:
    path.mkdir(exist_ok=True)
    os.chown(path, uid, uid)
    return path


@pytest.mark.parametrize("owner", [0, USER])
@pytest.mark.parametrize("keep", ["writer", "nobody"])
def test_a_server_cannot_lead_the_mount_of_another_elsewhere(
    lab: Lab, tmp_path: Path, secret: Path, owner: int, keep: str
) -> None:
    """A writable folder, a link in the place of one in it, and the server that mounts that; also after the
    server that placed the link is gone.
    """
    data = owned(tmp_path / "data", owner)
    owned(data / "sub", owner)
    writer = server("writer", mounts=[bind(data)])
    reader = server("reader", mounts=[bind(data / "sub", "/sub")])
    lab.apply(image(), writer, reader)
    lab.run("writer", "sh", "-c", f"rmdir /data/sub && ln -s {secret} /data/sub")
    assert os.readlink(data / "sub") == str(secret)
    if keep == "nobody":
        lab.vsprov("destroy", "-y", "-", input=to_yaml(writer))
    done = lab.vsprov("restart", "reader", check=False)
    assert done.returncode == 1 and f"{data}/sub: a symbolic link in a folder that servers may" in done.stderr
    # Where the link is a real directory again, the server has it.
    (data / "sub").unlink()
    owned(data / "sub", owner)
    (data / "sub/mine").touch()
    lab.vsprov("restart", "reader")
    assert lab.run("reader", "ls", "/sub").stdout.split() == ["mine"]


@pytest.mark.parametrize("kind", ["directory", "tar", "copy", "layout"])
def test_a_server_cannot_lead_the_source_of_an_image_elsewhere(
    lab: Lab, tmp_path: Path, secret: Path, kind: str
) -> None:
    data = tmp_path / "data"
    (data / "tree").mkdir(parents=True)
    (data / "tree/file").touch()
    lab.apply(image(), server("writer", mounts=[bind(data)]))
    lab.run("writer", "sh", "-c", f"rm -r /data/tree && ln -s {secret} /data/tree")
    step = {"copy": {"source": str(data / "tree/file"), "target": "/file"}}
    sources: dict[str, Any] = {
        "directory": {"directory": str(data / "tree")},
        "tar": {"tar": {"path": str(data / "tree/file")}},
        "layout": {"oci": {"layout": str(data / "tree")}},
        "copy": {"build": {"from": "host", "steps": [step]}},
    }
    said = lab.refused(image(), image("made", **sources[kind]), server("writer", mounts=[bind(data)]))
    assert f"{data}/tree: " in said and "symbolic link" in said


@pytest.mark.parametrize("source", ["config", "links/file", "links", "inner"])
def test_a_link_in_a_repository_copies_no_file_of_the_host(
    lab: Lab, tmp_path: Path, secret: Path, source: str
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "config").symlink_to(secret / "file")
    (repository / "links").symlink_to("../secret")
    (repository / "real").touch()
    (repository / "inner").symlink_to("real")
    steps = [{"copy": {"source": f"./{source}", "target": "/srv/copied"}}]
    manifest = repository / "m.yaml"
    manifest.write_text(to_yaml(image(), image("made", build={"from": "host", "steps": steps})))
    done = lab.vsprov("apply", "-y", manifest, check=False)
    link = repository / source.split("/")[0]
    assert done.returncode == 1 and f"{link}" in done.stderr and "symbolic link" in done.stderr
    assert "of the host" not in done.stdout + done.stderr


def test_a_plan_shows_what_a_user_of_the_host_could_exchange(lab: Lab, tmp_path: Path, secret: Path) -> None:
    home = owned(tmp_path / "home")
    (home / "of-root").mkdir()
    (home / "link").symlink_to(secret)
    for name, words in (
        ("of-root", f"uid {USER} may write to a directory above it"),
        ("link", "a symbolic link that uid"),
    ):
        text = to_yaml(image(), server("a", mounts=[bind(home / name)]))
        done = lab.vsprov("plan", "-o", "json", "-", input=text, check=False)
        (problem,) = json.loads(done.stdout)["problems"]
        assert words in problem["message"] and problem["path"] == "spec.mounts[0].source"
    assert lab.plan(image(), server("a", mounts=[bind(home)]))["problems"] == []


MAKE = """
cp /bin/busybox /data/suid && chmod 6755 /data/suid && cp /bin/busybox /data/caps
python3 - <<END
import os, struct
os.setxattr("/data/caps", "security.capability", struct.pack("<IIIII", 0x2000001, 1 << 7, 0, 0, 0))
END
"""


def test_programs_made_in_a_writable_source_give_users_of_the_host_no_rights(lab: Lab, public: Path) -> None:
    """By default; CVE-2021-41091 is the same through the layers of a server."""
    data = owned(public / "data")
    script = MAKE.replace("/bin/busybox", "/usr/bin/id")
    lab.apply(image(), server("a", mounts=[bind(data)]))
    lab.run("a", "sh", "-c", script)
    suid, caps = (data / "suid").stat(), os.getxattr(data / "caps", "security.capability")
    assert (suid.st_uid, suid.st_gid, suid.st_mode & 0o7777) == (USER, USER, 0o6755)
    assert int.from_bytes(caps[-4:], "little") == USER  # valid in namespaces whose root is this user
    said = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"]
        + ["--", str(data / "suid"), "-u"],
        capture_output=True,
        text=True,
    )
    assert said.stdout.split() == [str(USER)]  # the folder's owner, not root


def test_files_belong_to_the_owner_of_the_source_and_to_users_of_the_server(lab: Lab, public: Path) -> None:
    data = owned(public / "data")
    (data / "before").touch()
    os.chown(data / "before", USER, USER)
    (data / "of-root").touch()
    one, two = (server(name, mounts=[bind(data)]) for name in ("one", "two"))
    lab.apply(image(), one, two)
    base = int(Path(f"/proc/{lab.init('one').pid}/uid_map").read_text().split()[1])
    said = lab.run("one", "stat", "-c", "%u:%g", "/data", "/data/before", "/data/of-root").stdout.split()
    assert said == ["0:0", "0:0", "65534:65534"]
    lab.run("one", "sh", "-c", "touch /data/root /data/www; chown 33:33 /data/www; echo x >> /data/before")
    assert [(data / name).stat().st_uid for name in ("root", "www")] == [USER, base + 33]
    said = lab.run("two", "stat", "-c", "%u", "/data/root", "/data/www").stdout.split()
    assert said == ["0", "65534"]


def test_a_source_that_belongs_to_the_server_stays_as_it_is(lab: Lab, public: Path) -> None:
    data = public / "data"
    data.mkdir()
    lab.apply(image(), server("a"))
    base = int(Path(f"/proc/{lab.init('a').pid}/uid_map").read_text().split()[1])
    os.chown(data, base + 33, base + 33)
    lab.apply(image(), server("a", mounts=[bind(data)]))
    assert lab.run("a", "stat", "-c", "%u:%g", "/data").stdout.split() == ["33:33"]


def test_a_source_of_root_that_users_can_reach_is_mounted_read_only_or_on_request(
    lab: Lab, public: Path
) -> None:
    (public / "file").touch()
    os.chown(public / "file", 1000, 1000)
    for source in (public, public / "file"):
        os.chown(source, 0, 0)
        said = lab.refused(image(), server("a", mounts=[bind(source)]))
        assert f"{source}: belongs to root and is writable" in said and "chown USER:GROUP" in said
    os.chown(public, USER, 0)
    assert "the group root" in lab.refused(image(), server("a", mounts=[bind(public)]))
    os.chown(public, 0, 0)
    os.chown(public / "file", 1000, 1000)
    lab.converge(image(), server("a", mounts=[bind(public, readOnly=True)]))
    assert lab.run("a", "stat", "-c", "%u", "/data", "/data/file").stdout.split() == ["0", "1000"]
    done = lab.converge(image(), server("a", mounts=[bind(public, idMap="host")]))
    assert "can make setuid programs of the host's root" in done.stderr
    lab.run("a", "touch", "/data/new")
    assert (public / "new").stat().st_uid == 0
    private = public / "closed/data"
    private.mkdir(parents=True)
    (public / "closed").chmod(0o700)
    lab.converge(image(), server("a", mounts=[bind(private)]))
    lab.run("a", "touch", "/data/new")
    assert (private / "new").stat().st_uid == 0


def test_what_a_server_mounts_below_a_folder_of_the_host_is_not_mounted_on_the_host(
    lab: Lab, tmp_path: Path
) -> None:
    """On most hosts all mounts are shared, systemd(1)."""
    shared = tmp_path / "shared"
    shared.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", shared], check=True)
    try:
        subprocess.run(["mount", "--make-shared", shared], check=True)
        (shared / "file").touch()
        (shared / "sub").mkdir()
        spec = {"security": {"capabilities": {"add": ["SYS_ADMIN"]}}, "mounts": [bind(shared, idMap="none")]}
        lab.apply(image(), server("a", **spec))
        lab.shell("a", "mount -t tmpfs none /data/sub; mount --bind /etc/hosts /data/file; touch /data/sub/x")
        assert not list((shared / "sub").iterdir())
        below = f" {shared}/"
        assert [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if below in line] == []
    finally:
        subprocess.run(["umount", "-R", shared], check=True)
