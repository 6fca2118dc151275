from __future__ import annotations

import os
from pathlib import Path

import pytest

from vsprov.errors import ImageError
from vsprov.model.kinds.image import Image
from vsprov.model.sources import HostSource, Source, TarSource
from vsprov.store import hostimage, sources
from vsprov.store.instance import Instance


def refusal(path: str, state_root: str = "") -> str:
    with pytest.raises(ImageError) as refused:
        hostimage.check(HostSource(paths=(path,)), state_root=state_root)
    return str(refused.value)


@pytest.mark.parametrize("path", sorted([*hostimage.REFUSED, *hostimage.REFUSED_BELOW]))
def test_what_is_the_hosts_own_is_refused_with_the_reason(path: str) -> None:
    reasons = {**hostimage.REFUSED, **hostimage.REFUSED_BELOW}
    assert refusal(path) == f"host.paths: {path}: {reasons[path]}"
    if path != "/":
        assert refusal(f"{path}/") == f"host.paths: {path}/: {reasons[path]}"


@pytest.mark.parametrize(
    "path", ["/etc/ssh", "/proc/1", "/sys/fs/cgroup", "/dev/shm", "/run/user", "/root/.ssh", "/boot/grub"]
)
def test_so_is_what_lies_in_it(path: str) -> None:
    assert refusal(path).startswith(f"host.paths: {path}: it ")


@pytest.mark.parametrize(
    "path", ["", "srv", "./srv", "/srv/../etc", "//etc", "/opt/..", "/usr/../root", "/srv/a\0b"]
)
def test_a_path_that_is_not_plain_and_absolute_is_refused(path: str) -> None:
    assert refusal(path) == f"host.paths: {path}: not an absolute, normalized path"


def test_a_path_that_is_not_there_no_directory_or_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "etc").symlink_to("/etc")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert refusal(f"{tmp_path}/none").endswith(": No such file or directory")
    assert refusal(f"{tmp_path}/file").endswith(": not a directory")
    assert refusal(f"{tmp_path}/etc").endswith(": leads through a symbolic link: name /etc instead")
    assert refusal(f"{tmp_path}/etc/ssh").endswith(
        ": No such file or directory"
    ) or "name /etc/ssh" in refusal(f"{tmp_path}/etc/ssh")
    assert refusal(f"{tmp_path}/link").endswith(
        f": leads through a symbolic link: name {tmp_path}/real instead"
    )
    hostimage.check(HostSource(paths=(f"{tmp_path}/real", f"{tmp_path}/real/")))


def test_the_state_root_may_not_lie_in_a_shared_path_nor_around_it(tmp_path: Path) -> None:
    (tmp_path / "state/servers").mkdir(parents=True)
    (tmp_path / "statement").mkdir()
    root = f"{tmp_path}/state"
    for path in (str(tmp_path), root, f"{root}/servers"):
        assert "the state root of this instance" in refusal(path, root)
    hostimage.check(HostSource(paths=(f"{tmp_path}/statement",)), state_root=root)


def test_usr_and_what_lies_in_it_need_no_bind_of_their_own() -> None:
    assert hostimage.binds(HostSource(paths=("/usr", "/usr/local"))) == hostimage.binds(HostSource())
    assert hostimage.binds(HostSource())[0] == hostimage.Bind("/usr", "/usr")


def test_top_level_directories_are_links_or_binds_as_on_this_host(tmp_path: Path) -> None:
    hostimage.build(HostSource(), str(tmp_path))
    bound = {bind.target for bind in hostimage.binds(HostSource())}
    for name in hostimage.TOP_LEVEL:
        host, made = f"/{name}", f"{tmp_path}/{name}"
        assert os.path.islink(made) == os.path.islink(host)
        if os.path.islink(host):
            assert os.readlink(made) == os.readlink(host)
        assert (
            (host in bound)
            == (os.path.isdir(host) and not os.path.islink(host))
            == (os.path.isdir(made) and not os.path.islink(made))
        )


def test_the_skeleton_has_every_folder_with_its_mode_and_every_link(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        hostimage.build(HostSource(), str(tmp_path))
    finally:
        os.umask(before)
    assert {
        name: (tmp_path / name).stat().st_mode & 0o7777 for name in hostimage.FOLDERS
    } == hostimage.FOLDERS
    assert {name: os.readlink(tmp_path / name) for name in hostimage.LINKS} == hostimage.LINKS
    for path in (tmp_path / "etc").rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.stat().st_mode & 0o7777 == 0o644, path


def test_nothing_of_the_skeleton_is_a_secret_of_the_host(tmp_path: Path) -> None:
    hostimage.build(HostSource(), str(tmp_path))
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    for secret in (
        "etc/shadow",
        "etc/gshadow",
        "etc/ssh",
        "etc/ssl/private",
        "etc/hostname.old",
        "etc/fstab",
    ):
        assert secret not in names
    assert not [name for name in names if name.endswith(".key") or "snakeoil" in name]


def test_people_are_left_out_of_passwd_and_group_and_nobody_has_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "/etc/passwd": b"root:secret:0:0:The Boss:/root:/usr/bin/fish\n"
        b"mail:x:8:8::/var/mail:/usr/sbin/nologin\n"
        b"alice:x:1000:1000:Alice:/home/alice:/bin/bash\nnobody:x:65534:65534::/:/sbin/nologin\n"
        b"+nis:::\nbroken\nodd:x:\xff:1::/:\n:x:3:3::/:\n",
        "/etc/group": b"root:x:0:alice,mail\nsudo:x:27:alice\nalice:x:1000:\nwww:x:33:\n",
    }
    monkeypatch.setattr(hostimage, "_read", files.get)
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    assert hostimage._passwd().splitlines() == [
        f"root:*:0:0:The Boss:/root:{shell}",
        "daemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin",
        "bin:*:2:2:bin:/bin:/usr/sbin/nologin",
        "sys:*:3:3:sys:/dev:/usr/sbin/nologin",
        "mail:*:8:8::/var/mail:/usr/sbin/nologin",
        "www-data:*:33:33:www-data:/var/www:/usr/sbin/nologin",
        "nobody:*:65534:65534::/:/sbin/nologin",
    ]
    assert hostimage._group().splitlines() == [
        "root:*:0:mail", "daemon:*:1:", "bin:*:2:", "sys:*:3:", "tty:*:5:", "sudo:*:27:",
        "www:*:33:", "nogroup:*:65534:",
    ]  # fmt: skip


def test_an_image_without_a_source_or_with_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for source, said in (
        (Source(), "an image needs one source: host, directory, tar, oci, bootstrap or commit"),
        (Source(directory=""), "a path is missing"),
        (
            Source(tar=TarSource(path=f"{tmp_path}/none.tar")),
            f"{tmp_path}/none.tar: open: No such file or directory",
        ),
        (Source(tar=TarSource(path="a\0b")), "'a\\x00b': a path cannot contain NUL"),
        (Source(tar=TarSource(path=f"{tmp_path}/fifo")), f"{tmp_path}/fifo: not a file"),
        (Source(tar=TarSource(path=f"{tmp_path}/.")), f"{tmp_path}: not a file"),
        (
            Source(directory=f"{tmp_path}/none"),
            f"{tmp_path}/none: open as a directory: No such file or directory",
        ),
    ):
        with pytest.raises(ImageError) as refused:
            sources.resolve(Instance("vt-x", f"{tmp_path}/root"), Image(source=source))
        assert str(refused.value) == said
