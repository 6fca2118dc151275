"""Messages with descriptors over SOCK_SEQPACKET sockets: unix(7), SCM_RIGHTS."""

from __future__ import annotations

from _socket import (
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_TRUNC,
    SCM_RIGHTS,
    SOL_SOCKET,
    socket,
)
from os import close as close_fd


def send(channel: socket, data: bytes, *fds: int, wait: bool = False) -> None:
    """Send a message. OSError: BlockingIOError if the other end does not read and we do not wait for it."""
    rights = b"".join(fd.to_bytes(4, "little") for fd in fds)
    ancillary = [(SOL_SOCKET, SCM_RIGHTS, rights)] if fds else []
    channel.sendmsg([data], ancillary, MSG_NOSIGNAL | (0 if wait else MSG_DONTWAIT))


def receive(channel: socket, largest: int, most_fds: int, *, wait: bool = False) -> tuple[bytes, list[int]]:
    """The next message and its descriptors, close-on-exec, of which there may be fewer than were sent if this
    process has no room for them. No data at the end of the connection, or if the message is longer than
    `largest` bytes. BlockingIOError if there is none, and we do not wait.
    """
    flags = MSG_CMSG_CLOEXEC | (0 if wait else MSG_DONTWAIT)
    try:
        data, ancillary, flags, _ = channel.recvmsg(largest, CMSG_SPACE(4 * most_fds), flags)
    except ConnectionResetError:
        return b"", []
    fds = [
        int.from_bytes(rights[at : at + 4], "little")
        for level, kind, rights in ancillary
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS)
        for at in range(0, len(rights) - 3, 4)
    ]
    if not data or flags & MSG_TRUNC:
        close(*fds)
        return b"", []
    return data, fds


def close(*fds: int) -> None:
    """Close descriptors."""
    for fd in fds:
        close_fd(fd)
