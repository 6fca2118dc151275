"""The mark of the probes of a server on its home group, which vsprov.engine.look.probes reads.

JSON: {"init": "PID START", "readiness": {"ok", "at", "began", "probe", "unknown", "message"}, "health": …}.
`ok` is null as long as nothing is decided, `at` the Unix time since which it is so, `began` and `unknown` as
in `judge.Judge`, and `probe` a checksum of the spec of the probe. The mark is of no account for another init
than this one.
"""

from __future__ import annotations

import os
from binascii import crc32
from errno import ENODATA, ENODEV, ENOENT, ESRCH
from marshal import dumps

from .judge import Judge

TYPE_CHECKING = False  # typing would add a megabyte to the process
if TYPE_CHECKING:
    from typing import Any

    from ..kept import Kept

MARK = b"trusted.vsprov.probes"
WORDS = {True: "true", False: "false", None: "null"}
LONGEST = 200  # characters of a message


def write(one: Kept, judges: dict[str, Judge]) -> None:
    """Write the mark, if the group is still there."""
    parts = [f'"init":"{one.pid} {one.start}"']
    for subject, judge in judges.items():
        checksum = checksum_of(one.spec[subject])
        parts.append(
            f'"{subject}":{{"ok":{WORDS[judge.ok]},"at":{judge.since:.3f},"began":{judge.began:.3f},'
            f'"probe":{checksum},"unknown":{WORDS[judge.unknown]},"message":"{plain(judge.message)}"}}'
        )
    try:
        os.setxattr(one.home, MARK, ("{" + ",".join(parts) + "}").encode())
    except OSError as error:
        if error.errno not in (ENOENT, ENODEV, ESRCH):
            raise


def remove(one: Kept) -> None:
    """Remove the mark, if there is one."""
    try:
        os.removexattr(one.home, MARK)
    except OSError as error:
        if error.errno not in (ENODATA, ENOENT, ENODEV, ESRCH):
            raise


def read(one: Kept, subject: str) -> tuple[bool | None, float, float] | None:
    """`ok`, `at` and `began` of a probe that an earlier keeper has left; None if they are of another init or
    spec.
    """
    try:
        text = os.getxattr(one.home, MARK).decode()
    except OSError as error:
        if error.errno not in (ENODATA, ENOENT, ENODEV, ESRCH):
            raise
        return None
    if f'"init":"{one.pid} {one.start}"' not in text:
        return None
    for ok, word in WORDS.items():
        _, found, rest = text.partition(f'"{subject}":{{"ok":{word},"at":')
        at, _, rest = rest.partition(",")
        began, _, rest = rest.removeprefix('"began":').partition(",")
        if found and rest.startswith(f'"probe":{checksum_of(one.spec[subject])},'):
            return ok, float(at), float(began)
    return None


def checksum_of(spec: dict[str, Any]) -> int:
    """A checksum of the spec of a probe."""
    return crc32(dumps(spec, 2))  # version 2 has no references, which depend on who else has the objects


def plain(text: str) -> str:
    """A text of a server as part of JSON: printable ASCII without quotes and backslashes."""
    return "".join(char if " " <= char <= "~" and char not in '"\\' else "?" for char in text)[:LONGEST]
