"""Users and groups by the server's own /etc/passwd and /etc/group, which are hostile input.

`root` is an fd of the server's root directory; no path leads out of it.
"""

from __future__ import annotations

import os
from errno import EFBIG, EINVAL, ENOENT
from stat import S_ISREG

from .sys_calls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, file_system, openat2

LARGEST = 65535
HOME_SIZE = 1024  # bytes of the longest home directory accepted
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
    """An id in strict decimal, 0 to 65535, without sign, space, underscore or leading zero; None for a name.

    Raises OSError (EINVAL) for anything else, so that no odd spelling becomes 0 (CVE-2026-30892).
    """
    if text.isascii() and text.isdigit() and (text[0] != "0" or text == "0") and len(text) <= 5:
        value = int(text)
        if value <= LARGEST:
            return value
    elif text and text[0] in _NAME_START and _NAME_REST.issuperset(text):
        return None
    raise OSError(EINVAL, "neither a name nor a number from 0 to 65535", text)


def known(user: str) -> tuple[int, int, list[int]] | None:
    """(uid, gid, supplementary gids) of "USER[:GROUP]"; None if a file has to be read. OSError if invalid."""
    name, colon, group = user.partition(":")
    uid, gid = number(name), number(group) if colon else None
    if uid is not None and gid is not None:
        return uid, gid, []
    return (0, 0, []) if uid == 0 and not colon else None


def resolve(user: str, root: int) -> tuple[int, int, list[int]]:
    """(uid, gid, supplementary gids) of "USER[:GROUP]"; a number is an id, even if some user has it as a
    name.

    Without GROUP the gid is the user's in /etc/passwd (0 for a uid not listed there), and supplementary
    groups come from /etc/group. Raises OSError that names a user or group that does not exist.
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
    """The home directory of "USER[:GROUP]" in the server's /etc/passwd; "/" if there is none.

    User 0 always has /root: most servers run as root, and so start without reading a file.
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
    """(name, uid, gid) of the first line of /etc/passwd with this uid, or with this name if `uid` is None."""
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
    """The ids, or [] if one of them is invalid: such a line is skipped."""
    if all(text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= LARGEST for text in fields):
        return [int(text) for text in fields]
    return []


def check(place: int, path: str) -> None:
    """Raise OSError unless an O_PATH fd stands for a regular file of a file system that stores files.

    The kernel's own file systems check the rights of the opener, which are ours: a link to /proc/kmsg would
    consume the host's log.
    """
    if not S_ISREG(os.fstat(place).st_mode):
        raise OSError(EINVAL, "not a regular file", path)
    if file_system(place) in KERNELS_OWN:
        raise OSError(EINVAL, "not a file of the image", path)


def open_file(path: str, root: int) -> int:
    """An fd to read a regular file of the image.

    A FIFO or device in its place must not block the reader (CVE-2024-9676), and magic links are not followed.
    """
    place = openat2(root, os.fsencode(path), os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    try:
        check(place, path)
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(place)


def _lines(path: str, fields: int, root: int) -> list[list[str]]:
    """The lines of a passwd-like file with at least `fields` fields; [] if the file is absent."""
    try:
        fd = open_file(path, root)
    except OSError as error:
        if error.errno == ENOENT:
            return []
        raise
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
