"""The walk to a path of the host that users or servers may have changed on the way."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from vsprov.kernel import syscall
from vsprov.kernel.paths import WRITABLE_BY_SERVERS, UnsafePathError, open_host, walk_host

pytestmark = pytest.mark.vm_subset
USER, OTHER, GUEST = 12345, 12346, 524288


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A folder of root's that everybody may enter and only root may write to, in one that is private."""
    folder = tmp_path / "top"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    (folder / "secret").mkdir()
    (folder / "secret/file").write_text("of root")
    return folder


def owned(path: Path, uid: int, mode: int = 0o755) -> Path:
    """A folder of this user's."""
    path.mkdir(exist_ok=True)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def link(path: Path, target: str | Path, uid: int = 0) -> Path:
    path.symlink_to(target)
    os.lchown(path, uid, uid)
    return path


def leads_to(path: Path, **rules: bool) -> Path:
    """What a walk to this path finds, by another way."""
    found = walk_host(str(path), **rules)
    try:
        return Path(os.readlink(f"/proc/self/fd/{found.fd}"))
    finally:
        os.close(found.fd)


def refusal(path: Path, **rules: bool) -> UnsafePathError:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(UnsafePathError) as caught:
        walk_host(str(path), **rules)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert caught.value.hint and caught.value.strerror
    return caught.value


def test_links_that_only_root_can_have_placed_are_followed(top: Path) -> None:
    link(top / "absolute", top / "secret")
    link(top / "relative", "secret/../absolute")
    assert leads_to(top / "relative/file") == top / "secret/file"
    assert leads_to(top / "secret//./../secret") == top / "secret"


def test_a_users_own_folders_are_fine_with_their_links(top: Path) -> None:
    home = owned(top / "home", USER)
    owned(home / "site", USER)
    link(home / "current", "site", USER)
    assert leads_to(home / "current") == home / "site"


@pytest.mark.parametrize("target", ["../secret", "/etc"])
@pytest.mark.parametrize("owners", [True, False])
def test_a_users_link_does_not_lead_to_what_is_roots(top: Path, target: str, owners: bool) -> None:
    home = owned(top / "home", USER)
    link(home / "site", target, USER)
    assert refusal(home / "site", owners=owners).strerror


def test_a_link_in_the_folder_of_a_user_is_not_followed_for_another(top: Path) -> None:
    home = owned(top / "home", USER)
    for name, uid in (("of-root", 0), ("of-other", OTHER)):
        link(home / name, "inner", uid)
        assert "a symbolic link that uid" in str(refusal(home / name))


def test_a_link_of_root_in_what_a_user_could_have_moved_into_place_is_not_followed(top: Path) -> None:
    """Nor one of a file system of the user's own, which may name any owner; fuse(4)."""
    tree = owned(owned(top / "home", USER) / "tree", 0)
    link(tree / "link", top / "secret")
    said = str(refusal(tree / "link", owners=False).strerror)
    assert said == f"a symbolic link that uid {USER} could have moved there"


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_a_link_in_a_folder_that_others_may_write_is_not_followed(top: Path, mode: int) -> None:
    shared = owned(top / "shared", 0, mode)
    os.chown(shared, 0, USER)
    link(shared / "sub", top / "secret")
    error = refusal(shared / "sub")
    assert (error.filename, error.strerror) == (
        str(shared / "sub"),
        "a symbolic link in a folder that other users may write to",
    )


def test_a_sticky_folder_keeps_roots_links_and_refuses_those_of_users(top: Path) -> None:
    shared = owned(top / "tmp", 0, 0o1777)
    link(shared / "of-root", top / "secret")
    link(shared / "of-user", top / "secret", USER)
    assert leads_to(shared / "of-root") == top / "secret"
    assert f"uid {USER}" in str(refusal(shared / "of-user"))


def test_what_a_user_could_have_moved_into_place_is_refused(top: Path) -> None:
    home = owned(top / "home", USER)
    for name, uid in (("of-root", 0), ("of-other", OTHER)):
        owned(home / name, uid)
        assert f"uid {USER} may write to a directory above it" in str(refusal(home / name))
        assert leads_to(home / name, owners=False) == home / name
    shared = owned(top / "shared", 0, 0o777)
    assert "any user may write to a directory above it" in str(refusal(owned(shared / "of-root", 0)))
    assert leads_to(owned(shared / "of-user", USER)) == shared / "of-user"
    assert leads_to(shared) == shared


def test_folders_of_a_servers_users_may_lie_in_those_of_its_root(top: Path) -> None:
    data = owned(top / "data", GUEST)
    assert leads_to(owned(data / "www", GUEST + 33)) == data / "www"
    assert leads_to(owned(owned(top / "home", USER) / "data", GUEST)).name == "data"
    assert "belongs to root" in str(refusal(owned(data / "of-root", 0)))


def test_no_link_is_followed_in_a_folder_that_servers_may_write(top: Path) -> None:
    data = owned(top / "data", 0)
    inner = owned(data / "inner", 0)
    link(inner / "sub", top / "secret")
    assert leads_to(inner / "sub") == top / "secret"
    os.setxattr(data, WRITABLE_BY_SERVERS, b"1")
    assert refusal(inner / "sub").filename == str(inner / "sub")
    assert leads_to(inner) == inner


def test_a_folder_that_is_exchanged_for_a_link_all_the_time_never_leads_elsewhere(top: Path) -> None:
    """CVE-2021-30465 is such a race, between the check of a path and its use."""
    data = owned(top / "data", USER)
    owned(data / "sub", USER)
    link(data / "link", top / "secret", USER)
    tries = {"found": 0, "refused": 0}
    pid = os.fork()
    if pid == 0:
        while True:
            syscall.renameat2(str(data / "sub"), str(data / "link"), syscall.RENAME_EXCHANGE)
    try:
        while min(tries.values()) < 100:
            try:
                found = walk_host(str(data / "sub"))
            except UnsafePathError:
                tries["refused"] += 1
            else:
                assert os.fstat(found.fd).st_uid == USER
                os.close(found.fd)
                tries["found"] += 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_without_links_none_is_followed(top: Path) -> None:
    link(top / "a", "secret")
    assert refusal(top / "a/file", links=False).filename == str(top / "a")


def test_links_in_a_circle_end(top: Path) -> None:
    link(top / "a", "b")
    link(top / "b", "a")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        walk_host(str(top / "a"))


def test_a_missing_component_is_named(top: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        walk_host(str(top / "none/below"))
    assert caught.value.filename == str(top / "none")


def test_private_is_what_lies_below_a_folder_that_only_root_enters(top: Path) -> None:
    def is_private(path: Path) -> bool:
        found = walk_host(str(path))
        os.close(found.fd)
        return found.private

    assert is_private(top) == any(
        parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o011 for parent in top.parents
    )
    assert not is_private(Path("/usr"))
    closed = owned(top / "closed", 0, 0o700)
    assert is_private(owned(closed / "data", USER))


def test_what_is_opened_can_be_read(top: Path) -> None:
    fd = open_host(str(top / "secret/file"), os.O_RDONLY)
    assert os.read(fd, 100) == b"of root" and not os.get_inheritable(fd)
    os.close(fd)
    fd = open_host(str(top / "secret"), os.O_RDONLY | os.O_DIRECTORY)
    assert stat.S_ISDIR(os.fstat(fd).st_mode) and os.listdir(fd) == ["file"]
    os.close(fd)
