"""The system calls that no server may make: one classic BPF filter for servers, commands and build steps.

Capabilities, namespaces and control groups contain the rest. These calls reach what none of those contains:

- keys: every uid has a quota of its own, which no group limits; `keyctl` reaches what other processes have;
- leases and delegations: a server's root counts as the owner of files that it shares with the host by an
  idmapped mount, and an owner's lease stops everybody else who opens the file (fcntl(2), "Leases");
- AF_VSOCK, which belongs to the host in every network namespace, and AF_ALG, the host's cryptography;
- io_uring, which creates sockets past a filter, and has often been a way to the host;
- ioctl with the requests of btrfs that make subvolumes, which anybody may in their own directories, as in a
  volume: the limit of the directory does not hold for what is in one, and nothing copies it; and the one that
  makes a subvolume read-only, for the host, too;
- bpf, perf_event_open and userfaultfd, which attacks on the kernel use most.

On a 64-bit kernel also 32-bit programs are filtered; except that their socketcall(2) passes its arguments in
memory, where no filter sees them. It is not denied, because glibc for i386 has network by it alone; that
is why libseccomp does not make this filter: its rules for `socket` deny that call. The kernel does not run
the filter for calls that it always allows (seccomp(2), since 5.11).
"""

from __future__ import annotations

import errno
import os
from functools import cache
from struct import pack

# Offsets in struct seccomp_data; an argument's low word, for the kernel reads 32 bits of these.
NUMBER, ARCHITECTURE, FIRST, SECOND = 0, 4, 16, 24
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
X32 = 0x40000000  # of x86_64: 32-bit programs that use the 64-bit calls
F_SETLEASE, F_SETDELEG, AF_ALG, AF_VSOCK = 1024, 1040, 38, 40
# linux/btrfs.h: BTRFS_IOC_SNAP_CREATE, _SUBVOL_CREATE, _SNAP_CREATE_V2, _SUBVOL_CREATE_V2, _SUBVOL_SETFLAGS
SUBVOLUMES = (0x50009401, 0x5000940E, 0x50009417, 0x50009418, 0x4008941A)

# Calls by their numbers on x86_64, i386, arm, and the architectures added later; None if there is none.
ABIS = ("x86_64", "i386", "arm", "generic")
DENIED = {
    "add_key": ((248, 286, 309, 217), errno.ENOSYS),
    "request_key": ((249, 287, 310, 218), errno.ENOSYS),
    "keyctl": ((250, 288, 311, 219), errno.ENOSYS),
    "io_uring_setup": ((425, 425, 425, 425), errno.ENOSYS),
    "io_uring_enter": ((426, 426, 426, 426), errno.ENOSYS),
    "io_uring_register": ((427, 427, 427, 427), errno.ENOSYS),
    "bpf": ((321, 357, 386, 280), errno.EPERM),
    "perf_event_open": ((298, 336, 364, 241), errno.EPERM),
    "userfaultfd": ((323, 374, 388, 282), errno.EPERM),
}
# Calls that are denied with some values of an argument: where it is, and the error for each value. The error
# of F_SETLEASE is the one for a file of another user; of the others the one of a kernel without them, or of
# another file system.
LEASES = (SECOND, {F_SETLEASE: errno.EACCES, F_SETDELEG: errno.EINVAL})
FAMILIES = (FIRST, {AF_VSOCK: errno.EAFNOSUPPORT, AF_ALG: errno.EAFNOSUPPORT})
DENIED_WITH = {
    "fcntl": ((72, 55, 55, 25), LEASES),
    "fcntl64": ((None, 221, 221, None), LEASES),
    "ioctl": ((16, 54, 54, 29), (SECOND, dict.fromkeys(SUBVOLUMES, errno.ENOTTY))),
    "socket": ((41, 359, 281, 198), FAMILIES),
}
# The ABIs of a machine, with the numbers of linux/audit.h by which the kernel tells them apart.
ARCHITECTURES = {
    "x86_64": ((0xC000003E, "x86_64"), (0x40000003, "i386")),
    "aarch64": ((0xC00000B7, "generic"), (0x40000028, "arm")),
}

Line = tuple[int, int, int, int]  # code, distances to jump if true and if false, constant


@cache
def program(machine: str = "") -> bytes:
    """The filter for a machine (ours by default), as packed struct sock_filter."""
    machine = machine or os.uname().machine
    lines: list[Line] = []
    if machine in ARCHITECTURES:
        lines.append((LOAD, 0, 0, ARCHITECTURE))
        for number, abi in ARCHITECTURES[machine]:
            section = _section(abi)
            lines += [(EQUAL, 0, len(section), number), *section]
        lines.append(_error(errno.ENOSYS))  # an ABI that nothing is known of
    else:
        lines += _section("generic")
    return b"".join(pack("HBBI", *line) for line in lines)


def _section(abi: str) -> list[Line]:
    """What is decided about the calls of one ABI; ends with a return."""
    place = ABIS.index(abi)
    lines: list[Line] = [(LOAD, 0, 0, NUMBER)]
    if abi == "x86_64":
        lines += [(AT_LEAST, 0, 1, X32), _error(errno.ENOSYS)]
    for numbers, error in DENIED.values():
        lines += [(EQUAL, 0, 1, numbers[place]), _error(error)]
    for choices, (offset, values) in DENIED_WITH.values():
        number = choices[place]
        if number is None:
            continue
        part: list[Line] = [(LOAD, 0, 0, offset)]
        for value, error in values.items():
            part += [(EQUAL, 0, 1, value), _error(error)]
        part.append((RETURN, 0, 0, ALLOW))
        lines += [(EQUAL, 0, len(part), number), *part]
    return [*lines, (RETURN, 0, 0, ALLOW)]


def _error(number: int) -> Line:
    return (RETURN, 0, 0, ERRNO | number)
