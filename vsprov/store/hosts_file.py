"""The file that a server sees as /etc/hosts, so that `localhost` and its own name resolve.

It is in the server's directory, belongs to the server's root, and is mounted over the file of the image. It
is changed in place, because a mount shows the file that was mounted. What the server writes to it is kept.
"""

from __future__ import annotations

import os
import re

NAME = "hosts"
TARGET = "/etc/hosts"
_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_OWN = "127.0.1.1"  # hosts(5) of Debian: the name of a host without a permanent address
_LARGEST = 1 << 20


def update(path: str, hostname: str, owner: int | None = None) -> None:
    """Make the file name `hostname`; with an owner it is created if absent, and given to that id."""
    creation = 0 if owner is None else os.O_CREAT
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | creation, 0o644)
    try:
        if owner is not None and os.fstat(fd).st_uid != owner:
            os.fchmod(fd, 0o644)
            os.fchown(fd, owner, owner)
        before = os.pread(fd, _LARGEST, 0)
        after = with_own_name(before.decode(errors="surrogateescape"), hostname)
        content = after.encode(errors="surrogateescape")
        if content != before:
            os.pwrite(fd, content, 0)
            os.ftruncate(fd, len(content))
    finally:
        os.close(fd)


def with_own_name(text: str, hostname: str) -> str:
    """The content with the line of the server's own name: replaced, or added; for "" a whole new file.

    >>> with_own_name("127.0.1.1 old\\n10.0.0.1 db\\n", "web.example.org")
    '127.0.1.1\\tweb.example.org web\\n10.0.0.1 db\\n'
    """
    short = hostname.partition(".")[0]
    own = f"{_OWN}\t{hostname}" + (f" {short}" if short != hostname else "")
    if not text.strip():
        return f"{_LOCAL}{own}\n"
    lines = text.removesuffix("\n").split("\n")
    found = [number for number, line in enumerate(lines) if re.match(rf"{re.escape(_OWN)}\s", line)]
    if found:
        lines[found[0]] = own
    else:
        lines.append(own)
    kept = [line for number, line in enumerate(lines) if number not in found[1:]]
    return "\n".join(kept) + "\n"
