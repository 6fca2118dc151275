"""What the spawner does for a child that waits for it: id map, hard limits, mounts."""

from __future__ import annotations

import os
import resource
from _socket import MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET, socket
from struct import pack

from ..child.cgroups import choose_cgroup2_alone
from ..child.declared_mounts import BOOT_ID_FILE
from ..child.program import MOUNTS
from ..child.server import FDS_PER_MESSAGE
from ..mounts import (
    BOOT_ID,
    hidden,
    is_directory,
    make_bind,
    make_dev,
    make_root,
    new_boot_id,
    write,
    write_file,
)
from ..report import at
from ..sys_calls import CAP_SYS_ADMIN
from .locking import lock
from .systemd import accepts_v1

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from ..wire import Bind, Guest
    from .children import Child


def binds(guest: Guest) -> list[Bind]:
    """The binds among the mounts, in their order."""
    return [entry for entry in guest["mounts"] if entry["type"] == "bind"]


def equip(child: Child, guest: Guest, sources: list[int]) -> None:
    """Give a child its id map, the hard limits that only the host may raise, and its mounts.

    `sources` are O_PATH fds of the binds' sources; paths that cannot be idmapped are noted in the child.
    """
    pid, unmapped = child.pid, child.unmapped
    assert child.program and child.channel
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
        if child.program.cgroups >= 0 and not accepts_v1(guest["argv"][0], root):
            choose_cgroup2_alone(child.program)
        at("mount /dev")
        dev = make_dev(base)
        trees.append(dev)
        for file in guest["mounts"]:
            if file["type"] == "file":
                at("mount " + file["target"])
                write_file(dev, hidden(file), file["content"].encode(), base)
        at("mount /" + BOOT_ID_FILE)
        write_file(dev, BOOT_ID, new_boot_id(), base)
        for source, entry in zip(sources, binds(guest), strict=True):
            at("mount " + entry["target"])
            trees.append(make_bind(source, entry, userns, guest["id_map"], unmapped))
        if userns is not None and CAP_SYS_ADMIN in guest["capabilities"]:
            at("lock read-only mounts")
            lock_read_only(trees, binds(guest), guest["root"]["mount_at"])
        at("hand over")
        hand_over(child.channel, trees)
    finally:
        if userns is not None:
            os.close(userns)
        for tree in trees:
            os.close(tree)


def lock_read_only(trees: list[int], entries: list[Bind], mount_at: str) -> None:
    """Replace the mounts of binds that are read-only, the last ones of `trees`, by copies that stay so."""
    first = len(trees) - len(entries)
    places = [number for number, entry in enumerate(entries, first) if entry["read_only"]]
    if not places:
        return
    directories = [is_directory(trees[number]) for number in places]
    for number, tree in zip(
        places, lock([trees[number] for number in places], directories, mount_at), strict=True
    ):
        os.close(trees[number])
        trees[number] = tree


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
