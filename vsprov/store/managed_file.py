"""Files that a server shares with vsprov: each has a part that vsprov keeps up to date, between two comments.

They are in the server's directory, belong to the server's root, and are mounted over files of the image. They
are changed in place, because a mount shows the file that was mounted. What the server writes outside the
managed part is kept. The server may write anything at any time, so all of it is untrusted.
"""

from __future__ import annotations

import os
from collections.abc import Callable

BEGIN = "# vsprov: the lines up to its next comment are overwritten"
END = "# vsprov: end"
_LARGEST = 1 << 20  # what a server may add
# A server's root cannot replace the file, but could have a lease on it (fcntl(2)); do not wait for that.
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read(path: str) -> str | None:
    """The content; None if there is no such file. OSError if it cannot be opened at once."""
    try:
        fd = os.open(path, os.O_RDONLY | _FLAGS)
    except FileNotFoundError:
        return None
    try:
        return _content(fd)
    finally:
        os.close(fd)


def rewrite(path: str, edit: Callable[[str], str], owner: int | None = None) -> None:
    """Change the content; with an owner the file is created if absent, and given to that id."""
    fd = os.open(path, os.O_RDWR | _FLAGS | (0 if owner is None else os.O_CREAT), 0o644)
    try:
        if owner is not None and os.fstat(fd).st_uid != owner:
            os.fchmod(fd, 0o644)
            os.fchown(fd, owner, owner)
        before = _content(fd)
        after = edit(before)
        if after != before or os.fstat(fd).st_size > _LARGEST:
            content = _encode(after)
            written = 0
            while written < len(content):
                written += os.pwrite(fd, content[written:], written)
            os.ftruncate(fd, len(content))
    finally:
        os.close(fd)


def managed(text: str) -> str:
    """The managed part of a content; "" if it has none.

    >>> managed(with_managed("10.0.0.1 db\\n", "10.0.0.2 web\\n"))
    '10.0.0.2 web\\n'
    """
    return _split(text)[0]


def with_managed(text: str, part: str) -> str:
    """The content with this managed part, in front of everything else; for "" without one."""
    others = _split(text)[1]
    return (f"{BEGIN}\n{part}{END}\n" if part else "") + others


def _split(text: str) -> tuple[str, str]:
    """(the managed part, everything else). As vsprov writes it, without looking at each line."""
    head, tail = f"{BEGIN}\n", f"\n{END}\n"
    if BEGIN not in text:
        return "", text if not text or text.endswith("\n") else f"{text}\n"
    if text.startswith(head) and text.count(BEGIN) == 1 and text.count(END) == text.count(tail) == 1:
        part, _, others = text.removeprefix(head).partition(tail)
        return f"{part}\n", others if not others or others.endswith("\n") else f"{others}\n"
    lines = _lines(text)
    return "".join(line for line, own in lines if own), "".join(line for line, own in lines if own is False)


def _lines(text: str) -> list[tuple[str, bool | None]]:
    """(line, whether it is in a managed part; None for the comments around one).

    If the server has removed the comment at the end, the part ends before the next empty line or comment.
    """
    out: list[tuple[str, bool | None]] = []
    lines = [f"{line}\n" for line in text.removesuffix("\n").split("\n")] if text else []
    last = max((number for number, line in enumerate(lines) if line.strip() == END), default=-1)
    inside = ended = False
    for number, line in enumerate(lines):
        word = line.strip()
        if word == BEGIN:
            inside, ended = True, number < last
            out.append((line, None))
        elif inside and word == END:
            inside = False
            out.append((line, None))
        else:
            inside = inside and (ended or (bool(word) and word[0] not in "#;"))
            out.append((line, inside))
    return out


def _content(fd: int) -> str:
    return os.pread(fd, _LARGEST, 0).decode(errors="surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
