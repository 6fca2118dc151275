"""The host's part in making a server, done for a child that waits for it."""

from __future__ import annotations

import os
import resource
from _socket import MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET, socket
from struct import pack

from .layers import make_bind, make_dev, make_root
from .recipe import FDS_PER_MESSAGE
from .report import at

TYPE_CHECKING = False  # importing typing would double the heap every child copies
if TYPE_CHECKING:
    from typing import Any


def binds(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The binds among the mounts, in their order."""
    return [entry for entry in request["mounts"] if entry["type"] == "bind"]


def equip(
    pid: int, channel: socket, request: dict[str, Any], sources: list[int], unmapped: list[str]
) -> None:
    """Give a child its id map, what of its limits only the host may raise, and its mounts.

    `sources` are O_PATH fds of what the binds bind; what could not be idmapped goes to `unmapped`.
    """
    userns, base = None, 0
    trees: list[int] = []
    try:
        if request["id_map"]:
            at("id map")
            base = request["id_map"]["base"]
            line = b"0 %d %d\n" % (base, request["id_map"]["size"])
            write(f"/proc/{pid}/uid_map", line)
            write(f"/proc/{pid}/gid_map", line)
            userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        if request["oom_score_adj"] is not None:
            at("oom_score_adj")
            write(f"/proc/{pid}/oom_score_adj", b"%d" % request["oom_score_adj"])
        raise_hard_limits(pid, request["rlimits"])
        at("mount root")
        root, layers = make_root(request["root"], userns, unmapped)
        trees += (root, *layers)
        at("mount /dev")
        trees.append(make_dev(base))
        for source, entry in zip(sources, binds(request), strict=True):
            at("mount " + entry["target"])
            trees.append(make_bind(source, entry, userns, unmapped))
        at("hand over")
        hand_over(channel, trees)
    finally:
        if userns is not None:
            os.close(userns)
        for tree in trees:
            os.close(tree)


def hand_over(channel: socket, trees: list[int]) -> None:
    """Send the mounts' fds to the child."""
    for first in range(0, len(trees), FDS_PER_MESSAGE):
        fds = trees[first : first + FDS_PER_MESSAGE]
        try:
            channel.sendmsg([b"m"], [(SOL_SOCKET, SCM_RIGHTS, pack(f"{len(fds)}i", *fds))], MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            return  # the child has failed; its report is on the way


def raise_hard_limits(pid: int, rlimits: list[tuple[int, int, int]]) -> None:
    """Raise hard limits above the spawner's own: in its user namespace the child may only lower them."""
    for number, _soft, hard in rlimits:
        own_soft, own_hard = resource.getrlimit(number)
        if own_hard != -1 and (hard == -1 or hard > own_hard):
            at(f"rlimit {number}")
            resource.prlimit(pid, number, (own_soft, hard))


def write(path: str, content: bytes) -> None:
    """Write a kernel file at once."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)
