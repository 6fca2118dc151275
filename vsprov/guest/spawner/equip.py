"""What the spawner does for a child that waits for it: id map, hard limits, mounts."""

from __future__ import annotations

import os
import resource
from _socket import MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET, socket
from struct import pack

from ..child.program import MOUNTS
from ..child.server import FDS_PER_MESSAGE
from ..mounts import make_bind, make_dev, make_root, write, write_file
from ..report import at

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..wire import Bind, Guest


def binds(guest: Guest) -> list[Bind]:
    """The binds among the mounts, in their order."""
    return [entry for entry in guest["mounts"] if entry["type"] == "bind"]


def equip(pid: int, channel: socket, guest: Guest, sources: list[int], unmapped: list[str]) -> None:
    """Give a child its id map, the hard limits that only the host may raise, and its mounts.

    `sources` are O_PATH fds of the binds' sources; paths that cannot be idmapped are added to `unmapped`.
    """
    userns, base = None, 0
    trees: list[int] = []
    try:
        if guest["id_map"]:
            at("id map")
            base = guest["id_map"]["base"]
            line = b"0 %d %d\n" % (base, guest["id_map"]["size"])
            write(f"/proc/{pid}/uid_map", line)
            write(f"/proc/{pid}/gid_map", line)
            userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        raise_hard_limits(pid, guest["rlimits"])
        at("mount root")
        root, layers = make_root(guest["root"], base, userns, unmapped)
        trees += (root, *layers)
        at("mount /dev")
        dev = make_dev(base)
        trees.append(dev)
        for file in guest["mounts"]:
            if file["type"] == "file":
                at("mount " + file["target"])
                write_file(dev, file, base)
        for source, entry in zip(sources, binds(guest), strict=True):
            at("mount " + entry["target"])
            trees.append(make_bind(source, entry, userns, guest["id_map"], unmapped))
        at("hand over")
        hand_over(channel, trees)
    finally:
        if userns is not None:
            os.close(userns)
        for tree in trees:
            os.close(tree)


def hand_over(channel: socket, trees: list[int]) -> None:
    """Send the fds of the mounts to the child."""
    for first in range(0, len(trees), FDS_PER_MESSAGE):
        fds = trees[first : first + FDS_PER_MESSAGE]
        try:
            channel.sendmsg([MOUNTS], [(SOL_SOCKET, SCM_RIGHTS, pack(f"{len(fds)}i", *fds))], MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            return  # the child has failed, and its end will be reported


def raise_hard_limits(pid: int, rlimits: list[tuple[int, int, int]]) -> None:
    """Set hard limits above the spawner's own; the child, in its user namespace, may only lower them."""
    for number, _soft, hard in rlimits:
        own_soft, own_hard = resource.getrlimit(number)
        if own_hard != -1 and (hard == -1 or hard > own_hard):
            at(f"rlimit {number}")
            resource.prlimit(pid, number, (own_soft, hard))
