"""What is not on a link: sysctls, and the sockets that occupy ports. Of the caller's network namespace."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from struct import Struct, pack
from typing import Literal

from vsprov.kernel import proc
from vsprov.kernel.links.netlink import Attributes, Socket, attributes
from vsprov.plan.network.state import Listener

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _INET_DIAG_SKV6ONLY = 4, 20, 11
_LISTEN, _UNCONNECTED = (
    1 << 10,
    1 << 7,
)  # bits of TCP_LISTEN and TCP_CLOSE: a UDP socket that takes from anybody
# In a message: port and address of this side, inode.
_SOURCE, _INODE = Struct(">H2x16s"), Struct("=I")
_AT_SOURCE, _AT_INODE, _AT_ATTRIBUTES = 4, 68, 72


def read_sysctl(path: str) -> str | None:
    """The value of a sysctl, by its path below /proc/sys; None if it does not exist."""
    text = proc.read(f"/proc/sys/{path}")
    return None if text is None else text.strip()


def set_sysctl(path: str, value: str) -> None:
    """Write a sysctl, by its path below /proc/sys."""
    fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def listeners(*, with_processes: bool = False) -> tuple[Listener, ...]:
    """The sockets that accept TCP connections or take UDP packets from anybody; sock_diag(7).

    One that is open for both families is there twice. Finding the processes reads the descriptors of all
    processes.
    """
    found = [*_sockets("tcp"), *_sockets("udp")]
    names = _processes({inode for inode, _ in found}) if with_processes else {}
    named = {Listener(one.protocol, one.address, one.port, names.get(inode, "")) for inode, one in found}
    return tuple(sorted(named, key=lambda one: (one.protocol, one.port, one.address, one.process)))


def _sockets(protocol: Literal["tcp", "udp"]) -> list[tuple[int, Listener]]:
    """(inode, socket) of every socket that occupies a port."""
    number, states = (
        (socket.IPPROTO_TCP, _LISTEN) if protocol == "tcp" else (socket.IPPROTO_UDP, _UNCONNECTED)
    )
    out = []
    with Socket(protocol=_NETLINK_SOCK_DIAG) as on:
        for family in (socket.AF_INET, socket.AF_INET6):
            body = pack("=BBBxI48x", family, number, 0, states)
            for _, message in on.dump(_SOCK_DIAG_BY_FAMILY, body):
                port, source = _SOURCE.unpack_from(message, _AT_SOURCE)
                (inode,) = _INODE.unpack_from(message, _AT_INODE)
                address = socket.inet_ntop(family, source[: 4 if family == socket.AF_INET else 16])
                out.append((inode, Listener(protocol, address, port)))
                if address == "::" and not _only_ipv6(attributes(message, _AT_ATTRIBUTES)):
                    out.append((inode, Listener(protocol, "0.0.0.0", port)))
    return out


def _only_ipv6(given: Attributes) -> bool:
    return _INET_DIAG_SKV6ONLY in given and given[_INET_DIAG_SKV6ONLY][0] == 1


def _processes(inodes: set[int]) -> Mapping[int, str]:
    """{inode of a socket: name of a process that has it open}."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    out = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue  # it has ended, or is not ours to look at
        for target in targets:
            if target in wanted:
                out[wanted[target]] = (proc.read(f"/proc/{pid}/comm") or "").strip()
    return out
