"""Exit statuses from the process events connector, for kernels whose pidfds do not keep them (before 6.15).

Documentation/driver-api/connector.rst, linux/cn_proc.h, netlink(7).
"""

from __future__ import annotations

import os
from _socket import AF_NETLINK, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET, socket
from array import array
from errno import EINVAL, ENOMEM
from select import POLLIN, poll
from struct import pack, unpack_from

_NETLINK_CONNECTOR, _CN_IDX_PROC, _CN_VAL_PROC, _PROC_CN_MCAST_LISTEN = 11, 1, 1, 1
_NLMSG_DONE, _SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 3, 26, 33
_ROOM = 4 << 20  # bytes: for five thousand events, should so many servers end at once
_PROC_EVENT_EXIT = 0x80000000
_WHAT, _PID = 36, 52  # where the event's kind is in a message, and in an exit the pid, tgid and status
# Milliseconds: the event is sent right after a pidfd has become readable, if the process gets a processor.
_LATE, _LATE_AFTER_LOSS = 3000, 100
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/filter.h
_TAKE, _DROP = (_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)


class Exits:
    """The exits of watched processes. OSError without CAP_NET_ADMIN, or CONFIG_PROC_EVENTS in the kernel."""

    def __init__(self) -> None:
        self._socket = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, _NETLINK_CONNECTOR)
        self._found: dict[int, int] = {}
        self._watched: frozenset[int] = frozenset()
        self._late = _LATE
        self._socket.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        self._socket.bind((0, _CN_IDX_PROC))
        self.watch(())
        body = pack("=4I2HI", _CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0, _PROC_CN_MCAST_LISTEN)
        self._socket.send(pack("=IHHII", 16 + len(body), _NLMSG_DONE, 0, 0, os.getpid()) + body)

    def watch(self, pids: tuple[int, ...]) -> None:
        """Receive the exits of these processes, and not of others, so that those do not fill the buffer.

        The kernel takes no filter for more than some 1200 (net.core.optmem_max) or 2000 of them
        (BPF_MAXINSNS): then all exits are received, and one may be lost among them.
        """
        self._watched = frozenset(pids)
        one_of_them = [line for pid in pids for line in ((_IF_EQUAL, 0, 1, _swapped(pid)), _TAKE)]
        try:
            self._attach([(_LOAD, 0, 0, _PID), *one_of_them, _DROP])
        except OSError as error:
            if error.errno not in (EINVAL, ENOMEM):
                raise
            self._attach([_TAKE])

    def _attach(self, program: list[tuple[int, int, int, int]]) -> None:
        """Attach a filter for exits. The kernel copies the struct sock_fprog and what it points to."""
        exits = [(_LOAD, 0, 0, _WHAT), (_IF_EQUAL, 1, 0, _swapped(_PROC_EVENT_EXIT)), _DROP, *program]
        code = array("B", b"".join(pack("=HBBI", *one) for one in exits))
        self._socket.setsockopt(SOL_SOCKET, _SO_ATTACH_FILTER, pack("HP", len(exits), code.buffer_info()[0]))

    def take(self, pid: int) -> int | None:
        """The wait status of a watched process that has just ended; None if its event was lost."""
        waits = poll()
        waits.register(self._socket.fileno(), POLLIN)
        while pid not in self._found and waits.poll(self._late):
            try:
                message = self._socket.recv(4096, MSG_DONTWAIT)
            except OSError:  # ENOBUFS: events were lost, and none may be worth waiting for
                self._late = _LATE_AFTER_LOSS
                continue
            ended, _tgid, status = unpack_from("=3I", message, _PID)
            if ended in self._watched:
                self._found[ended] = status
        return self._found.pop(pid, None)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def _swapped(number: int) -> int:
    """A number as a load of the filter returns it, which takes the message for big-endian."""
    return int.from_bytes(pack("=I", number), "big")
