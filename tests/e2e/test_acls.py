"""Access control lists of images: servers see what setfacl has set, with their own ids, from any source."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import registry
from tests.features import requires
from tests.lab import Document, Lab, busybox_image, image
from tests.shop import app, layers

SLEEP = {"command": ["/bin/sleep", "1000"]}
# As getfacl prints them: the file's group may read, though its mode has rwx, the mask, in that place.
FILE = "user::rw-\nuser:33:rwx\ngroup::r--\ngroup:1234:r--\nmask::rwx\nother::---\n\n"
FOLDER = (
    "user::rwx\nuser:33:---\ngroup::r-x\nmask::r-x\nother::r-x\n"
    "default:user::rwx\ndefault:user:33:rwx\ndefault:group::r-x\ndefault:mask::rwx\ndefault:other::---\n\n"
)
PLAIN = "user::rw-\ngroup::r--\nother::r--\n\n"


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root file system in which www-data is 33, with lists on a file and a folder."""
    requires("acl", "busybox")
    top = busybox_image(tmp_path / "rootfs")
    (top / "etc").mkdir(exist_ok=True)
    (top / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n")
    (top / "d").mkdir()
    (top / "d/plain").write_text("x")
    (top / "f").write_text("x")
    (top / "f").chmod(0o640)
    setfacl("u:33:rwx,g:1234:r", top / "f")
    setfacl("u:33:-,d:u:33:rwx,d:o:-", top / "d")
    return top


def setfacl(entries: str, path: Path) -> None:
    subprocess.run(["setfacl", "-m", entries, path], check=True)


def getfacl(path: Path) -> str:
    """The lists of a path, with ids."""
    command = ["getfacl", "--absolute-names", "--numeric", "--omit-header", path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def tar(rootfs: Path, *command: str) -> Document:
    path = rootfs.parent / "image.tar"
    subprocess.run([*command, "-C", rootfs, "-cf", path, "."], check=True)
    return image("box", tar={"path": str(path)})


def layout(rootfs: Path) -> Document:
    """The folder's lists are in a layer over another one, whose file of that name is replaced."""
    path, below = rootfs.parent / "layout", rootfs.parent / "below"
    shutil.copytree(rootfs, below, symlinks=True)
    setfacl("u:7:rwx", below / "d/plain")
    setfacl("u:7:rwx,d:u:7:rwx", below / "d")
    first, second = rootfs.parent / "one.tar", rootfs.parent / "two.tar"
    with_lists = ["tar", "--format=pax", "--xattrs", "--xattrs-include=*"]
    subprocess.run([*with_lists, "-C", below, "-cf", first, "."], check=True)
    subprocess.run([*with_lists, "-C", rootfs, "-cf", second, "d", "f"], check=True)
    made = registry.image(path, first.read_bytes(), second.read_bytes())
    registry.named(path, it=made)
    return image("box", oci={"layout": str(path)})


SOURCES = {
    "directory": lambda top: image("box", directory=str(top)),
    "tar --acls": lambda top: tar(top, "tar", "--format=pax", "--acls"),
    "tar --xattrs": lambda top: tar(top, "tar", "--format=pax", "--xattrs", "--xattrs-include=*"),
    "bsdtar": lambda top: tar(top, "bsdtar", "--format=pax"),
    "layout": layout,
}


@pytest.mark.requires("idmap", "bsdtar")
@pytest.mark.parametrize("source", SOURCES)
def test_servers_see_the_lists_of_every_source_with_their_own_ids(
    lab: Lab, rootfs: Path, source: str
) -> None:
    box = SOURCES[source](rootfs)
    lab.converge(box, app("a", "box", SLEEP))
    tops = (lab.vsprov.root / "layers").glob("*/tree")
    tree = next(top for top in tops if getfacl(top / "d") == FOLDER)
    assert getfacl(tree / "f") == FILE
    assert (tree / "f").stat().st_mode & 0o7777 == 0o670
    assert getfacl(tree / "d/plain") == PLAIN  # made before its folder had a default
    # The kernel's answer inside: 33 may write, the group may only read, and a new file inherits.
    script = "echo y >>/f && cat /f && ls /d"
    inside = lab.vsprov("exec", "--user", "33:33", "a", "--", "/bin/sh", "-c", script, check=False)
    assert inside.stdout == "xy\n" and "'/d': Permission denied" in inside.stderr
    group = lab.vsprov(
        "exec", "--user", "5:0", "a", "--", "/bin/sh", "-c", "cat /f; echo y >>/f", check=False
    )
    assert group.stdout == "xy\n" and "/f: Permission denied" in group.stderr
    lab.run("a", "/bin/sh", "-c", "echo n >/d/new")
    base = os.stat(lab.directory("a") / "upper").st_uid
    assert f"user:{base + 33}:rwx" in getfacl(lab.directory("a") / "upper/d/new")
    assert lab.is_settled(box, app("a", "box", SLEEP))
    assert lab.vsprov("image", "verify").returncode == 0


@pytest.mark.requires("idmap")
def test_a_build_step_stores_lists_with_the_ids_inside(lab: Lab, rootfs: Path) -> None:
    for name in ("setfacl", "getfacl"):
        with_libraries(Path(shutil.which(name) or ""), rootfs)
    steps = [
        {"run": "setfacl -m u:77:rw,g:88:r /f; setfacl -m d:u:77:rwx,u:77:x /srv"},
        {"run": "echo x >/srv/inherits; chmod 640 /etc/passwd"},
    ]
    (rootfs / "srv").mkdir(exist_ok=True)
    build = {"from": "box", "steps": steps}
    built = image("built", build=build)
    lab.converge(image("box", directory=str(rootfs)), built, app("a", "built", SLEEP))
    tops = [lab.vsprov.root / "layers" / key / "tree" for key in layers(lab)]
    lists = {name: getfacl(top / name) for top in tops for name in ("f", "srv", "srv/inherits")
             if (top / name).exists() and ":77:" in getfacl(top / name)}  # fmt: skip
    assert lists["f"].splitlines()[:4] == ["user::rw-", "user:33:rwx", "user:77:rw-", "group::r--"]
    assert "default:user:77:rwx" in lists["srv"] and "user:77:--x" in lists["srv"]
    assert "user:77:rwx\t#effective:rw-" in lists["srv/inherits"]
    shown = lab.run("a", "getfacl", "-n", "-c", "-p", "/f", "/srv/inherits").stdout
    assert shown.startswith("user::rw-\nuser:33:rwx\nuser:77:rw-\n") and "4294967295" not in shown
    assert lab.vsprov("image", "verify").returncode == 0


def with_libraries(program: Path, rootfs: Path) -> None:
    """Put a program of the host, and what it is linked to, into a root file system."""
    found = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout.split()
    for path in (program, *(Path(word) for word in found if word.startswith("/"))):
        target = rootfs / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def test_verify_and_dedupe_tell_files_apart_by_their_lists(lab: Lab, rootfs: Path) -> None:
    other = rootfs.parent / "other"
    subprocess.run(["cp", "-a", rootfs, other], check=True)
    for top in (rootfs, other):
        (top / "srv").mkdir(exist_ok=True)
        for name in ("same", "differs"):
            (top / "srv" / name).write_text(name * 2000)
            (top / "srv" / name).chmod(0o644)
            setfacl(f"u:{33 if name == 'same' or top == other else 44}:r", top / "srv" / name)
            os.utime(top / "srv" / name, (1, 1))
    lab.converge(image("one", directory=str(rootfs)), image("two", directory=str(other)))
    lab.vsprov("image", "dedupe")
    one, two = ((lab.vsprov.root / "layers" / key / "tree/srv") for key in layers(lab))
    assert (one / "same").samefile(two / "same")
    assert not (one / "differs").samefile(two / "differs")
    assert lab.vsprov("image", "verify").returncode == 0
    setfacl("u:33:rwx", one / "differs")
    said = lab.vsprov("image", "verify", check=False)
    assert said.returncode == 1 and "srv/differs: system.posix_acl_access differs" in said.stdout


def test_a_copy_keeps_no_list_and_gives_the_group_no_more_than_it_had(lab: Lab, rootfs: Path) -> None:
    for source in (str(rootfs / "f"), f"{rootfs}/"):
        step = {"copy": {"source": source.rstrip("/"), "target": "/srv/"}}
        built = image("built", build={"from": "box", "steps": [step]})
        lab.apply(image("box", directory=str(rootfs)), built)
        copies = [path for path in (lab.vsprov.root / "layers").glob("*/tree/srv/f")]
        assert [path.stat().st_mode & 0o7777 for path in copies] == [0o640]
        assert "system.posix_acl_access" not in os.listxattr(copies[0])


def test_lists_that_no_server_can_have_are_refused(lab: Lab, rootfs: Path) -> None:
    setfacl("u:70000:r", rootfs / "f")
    said = lab.refused(image("box", directory=str(rootfs)))
    assert "'f': system.posix_acl_access: names 70000; the highest id in a server is 65535" in said
    said = lab.refused(tar(rootfs, "tar", "--format=pax", "--acls"))
    assert "'f': system.posix_acl_access: names 70000; the highest id" in said
    setfacl("u:70000:r,u:1:r", rootfs / "d")
    subprocess.run(["setfacl", "-x", "u:70000", rootfs / "f", rootfs / "d"], check=True)
    (rootfs / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    said = lab.refused(tar(rootfs, "tar", "--format=pax", "--acls"))
    assert "access control list: user 'www-data' is not in /etc/passwd of the image" in said
