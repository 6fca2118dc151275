"""Who to run as, by the server's own /etc/passwd and /etc/group: hostile input, read with care.

`root` is the server's root directory as an fd; nothing is looked up outside it.
"""

from __future__ import annotations

import os
from errno import EFBIG, EINVAL, ENOENT
from stat import S_ISREG

from .sys_calls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, file_system, openat2

LARGEST = 65535
HOME_SIZE = 1024  # of the longest home directory
_FILE_LIMIT = 1 << 20
# Magic numbers of proc, sysfs, cgroup, cgroup2, tracefs, debugfs, securityfs, bpf, binfmt_misc, selinuxfs,
# pstore, efivarfs, configfs, mqueue, devpts, hugetlbfs; include/uapi/linux/magic.h.
KERNELS_OWN = frozenset((
    0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x74726163, 0x64626720, 0x73636673, 0xCAFE4A11, 0x42494E4D,
    0xF97CFF8C, 0x6165676C, 0xDE5E81E4, 0x62656570, 0x19800202, 0x1CD1, 0x958458F6,
))  # fmt: skip
_NAME_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_NAME_REST = _NAME_START | frozenset("0123456789-.$")


def number(text: str) -> int | None:
    """The id in strict decimal (no sign, space, underscore, leading zero), 0 to 65535; None for a name.

    Anything else raises OSError EINVAL: "1" must never mean 0 (CVE-2026-30892).
    """
    if text.isascii() and text.isdigit() and (text[0] != "0" or text == "0") and len(text) <= 5:
        value = int(text)
        if value <= LARGEST:
            return value
    elif text and text[0] in _NAME_START and _NAME_REST.issuperset(text):
        return None
    raise OSError(EINVAL, "neither a name nor a number from 0 to 65535", text)


def known(user: str) -> tuple[int, int, list[int]] | None:
    """(uid, gid, extra gids) of "USER[:GROUP]" if that takes no file; OSError for what is no user."""
    name, colon, group = user.partition(":")
    uid, gid = number(name), number(group) if colon else None
    if uid is not None and gid is not None:
        return uid, gid, []
    return (0, 0, []) if uid == 0 and not colon else None


def resolve(user: str, root: int) -> tuple[int, int, list[int]]:
    """(uid, gid, supplementary gids) of "USER[:GROUP]"; a number is that number, even if it is a user's name.

    A group not given is the user's own in /etc/passwd, or 0 for a number unknown there. Supplementary
    groups come from /etc/group when no group is given. OSError names the user or group that does not exist.
    """
    name, colon, group = user.partition(":")
    uid = number(name)
    if colon:
        gid = number(group)
        if gid is None:
            gid = _group(group, root)
        return (uid if uid is not None else _entry(name, None, root)[1], gid, [])
    try:
        found, uid, gid = _entry(name, uid, root)
    except OSError as error:
        if uid is None or error.errno != ENOENT:
            raise
        return uid, 0, []
    return uid, gid, [member for member in _memberships(found, root) if member != gid]


def home(user: str, root: int) -> str:
    """The home directory of "USER[:GROUP]" by the server's /etc/passwd; "/" when that tells none.

    That of user 0 is /root: most servers are his, and start without a look at any file.
    """
    name = user.partition(":")[0]
    uid = number(name)
    if uid == 0:
        return "/root"
    try:
        for fields in _lines("/etc/passwd", 6, root):
            ids = _ids(fields[2:4])
            if ids and (ids[0] == uid if uid is not None else fields[0] == name):
                path = fields[5]
                return path if path.startswith("/") and "\0" not in path and len(path) < HOME_SIZE else "/"
    except OSError:
        return "/"
    return "/"


def _entry(name: str, uid: int | None, root: int) -> tuple[str, int, int]:
    """(name, uid, gid) of the first passwd line with this uid, or when that is None with this name."""
    for fields in _lines("/etc/passwd", 4, root):
        ids = _ids(fields[2:4])
        if ids and (ids[0] == uid if uid is not None else fields[0] == name):
            return fields[0], ids[0], ids[1]
    raise OSError(ENOENT, "no such user in the server's /etc/passwd", name)


def _group(name: str, root: int) -> int:
    for fields in _lines("/etc/group", 3, root):
        ids = _ids(fields[2:3])
        if ids and fields[0] == name:
            return ids[0]
    raise OSError(ENOENT, "no such group in the server's /etc/group", name)


def _memberships(user: str, root: int) -> list[int]:
    found = []
    for fields in _lines("/etc/group", 4, root):
        ids = _ids(fields[2:3])
        if ids and user in fields[3].split(","):
            found.append(ids[0])
    return found


def _ids(fields: list[str]) -> list[int]:
    """The numbers, or nothing when one of them is not a proper id: such a line is passed over."""
    if all(text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= LARGEST for text in fields):
        return [int(text) for text in fields]
    return []


def check(place: int, path: str) -> None:
    """Raise OSError unless what an O_PATH fd stands for is an ordinary file.

    Those of the kernel's own file systems are opened with our rights, not the server's: a link to /proc/kmsg
    would take the host's log away.
    """
    if not S_ISREG(os.fstat(place).st_mode):
        raise OSError(EINVAL, "not a regular file", path)
    if file_system(place) in KERNELS_OWN:
        raise OSError(EINVAL, "not a file of the image", path)


def _lines(path: str, fields: int, root: int) -> list[list[str]]:
    """The lines of a passwd-like file that have at least so many fields; none when the file is absent.

    A FIFO or device in its place must not stop the reader (CVE-2024-9676), nor a magic link lead it astray.
    """
    try:
        place = openat2(root, path.encode(), os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno == ENOENT:
            return []
        raise
    try:
        check(place, path)
        fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(place)
    try:
        content = b""
        while len(content) <= _FILE_LIMIT:
            part = os.read(fd, _FILE_LIMIT + 1 - len(content))
            if not part:
                break
            content += part
    finally:
        os.close(fd)
    if len(content) > _FILE_LIMIT:
        raise OSError(EFBIG, "larger than 1 MiB", path)
    lines = (line.split(":") for line in content.decode("utf-8", "surrogateescape").split("\n"))
    return [line for line in lines if len(line) >= fields]
