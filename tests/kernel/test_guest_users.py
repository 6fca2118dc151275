"""Users and groups of a guest are those of its image, whatever the files of that hold."""

from __future__ import annotations

import errno
import os

import pytest

from tests.features import requires
from tests.kernel.guests import (
    Workshop,
)
from vsprov.guest.sys_calls import raw_syscall


@pytest.mark.parametrize(
    "user",
    [
        "0x1",
        "01",
        "+1",
        "1 ",
        " 1",
        "-1",
        "4294967295",
        "4294967296",
        "65536",
        "1_0",
        "",
        "\u0661",
        "a b",
        "1:",
        ":1",
        "1:-1",
        "root\n",
    ],
)
def test_a_user_that_is_neither_name_nor_number_is_refused(workshop: Workshop, user: str) -> None:
    event = workshop.failure(workshop.request("id", "-u", user=user))
    assert (event["step"], event["errno"]) == (f"user {user}", errno.EINVAL)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups"),
    [
        ("0", "0", "0", []),
        ("1", "1", "0", []),
        ("1:2", "1", "2", []),
        ("65535:65535", "65535", "65535", []),
        ("app", "1000", "1001", ["29", "44"]),
        ("1000", "1000", "1001", ["29", "44"]),
        ("app:audio", "1000", "29", []),
        ("app:5", "1000", "5", []),
        ("1000:1000", "1000", "1000", []),
        ("root", "0", "0", []),
    ],
)
def test_users_and_groups_are_those_of_the_image(
    workshop: Workshop, user: str, uid: str, gid: str, groups: list[str]
) -> None:
    with (workshop.image / "etc/passwd").open("a") as file:
        file.write("1000:x:0:0::/:/bin/sh\nwide:x:99999999999:0::/:\nshort:x\n\n")
    said = workshop.shell("grep -E '^(Uid|Gid|Groups)' /proc/self/status", user=user)
    lines = [line.split()[1:] for line in said.splitlines()]
    assert lines == [[uid] * 4, [gid] * 4, groups]


HOMES = [
    *(("0", "/root"), ("0:0", "/root"), ("root", "/root"), ("app", "/srv"), ("1000", "/srv")),
    *(("1000:5", "/srv"), ("app:audio", "/srv"), ("77", "/"), ("77:77", "/"), ("odd", "/"), ("none", "/")),
    *(("far", "/" + "ä" * 1000), ("farther", "/")),
]


@pytest.mark.parametrize(("user", "home"), HOMES)
@pytest.mark.parametrize("reaper", [None, "/usr/bin/catatonit"])
def test_the_home_of_a_user_is_the_images_unless_the_environment_says_otherwise(
    workshop: Workshop, user: str, home: str, reaper: str | None
) -> None:
    if reaper:
        requires("catatonit")
    with (workshop.image / "etc/passwd").open("a") as file:
        file.write(f"odd:x:5:5::relative:/bin/sh\nnone:x:6:6\nfar:x:7:7::/{'ä' * 1000}:/bin/sh\n")
        file.write(f"farther:x:8:8::/{'a' * 5000}:/bin/sh\n")
    shown = 'echo "$HOME"'
    assert workshop.shell(shown, user=user, home=True, reaper=reaper) == f"{home}\n"
    own = {"PATH": "/bin", "HOME": "/own"}
    assert workshop.shell(shown, user=user, home=True, env=own, reaper=reaper) == "/own\n"
    assert workshop.shell('echo "${HOME-none}"', user=user, reaper=reaper) == "none\n"


@pytest.mark.parametrize("user", ["nobody-here", "app:nobody-here", "wide", "short"])
def test_a_user_or_group_the_image_does_not_have_is_named(workshop: Workshop, user: str) -> None:
    with (workshop.image / "etc/passwd").open("a") as file:
        file.write("wide:x:99999999999:0::/:\nshort:x\n\n")
    event = workshop.failure(workshop.request("true", user=user))
    assert (event["step"], event["errno"], event["path"]) == (
        f"user {user}",
        errno.ENOENT,
        user.rpartition(":")[2],
    )


@pytest.mark.parametrize("target", ["/proc/kmsg", "/proc/version", "/sys/kernel/notes", "/dev/null"])
def test_a_passwd_file_that_is_a_link_to_one_of_the_kernels_is_not_opened(
    workshop: Workshop, target: str
) -> None:
    (workshop.image / "etc/passwd").unlink()
    (workshop.image / "etc/passwd").symlink_to(target)
    unread = klog_unread()
    event = workshop.failure(workshop.request("true", user="app"))
    assert (event["step"], event["errno"], event["path"]) == ("user app", errno.EINVAL, "/etc/passwd")
    assert klog_unread() > unread // 2  # a full log loses its oldest messages; who reads it empties it


def klog_unread() -> int:
    """How many bytes /proc/kmsg holds that nobody has read: syslog(2), SYSLOG_ACTION_SIZE_UNREAD."""
    return raw_syscall({"x86_64": 103, "aarch64": 116}[os.uname().machine], 9, *(0,) * 5)


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "large", "magic link"])
def test_a_hostile_passwd_file_neither_hangs_nor_leads_astray(workshop: Workshop, kind: str) -> None:
    path = workshop.image / "etc/passwd"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o020666, os.makedev(1, 5))
    elif kind == "directory":
        path.mkdir()
    elif kind == "large":
        path.write_text("#" * (1 << 20) + "\n")
    else:
        path.symlink_to("/proc/self/fd/3")
    event = workshop.failure(workshop.request("true", user="app"))
    expected = {
        "fifo": errno.EINVAL,
        "device": errno.EINVAL,
        "directory": errno.EINVAL,
        "large": errno.EFBIG,
        "magic link": errno.ENOENT,
    }
    assert (event["step"], event["errno"]) == ("user app", expected[kind])
    assert workshop.shell("grep ^Uid /proc/self/status", user="7:7").split() == ["Uid:", *["7"] * 4]
