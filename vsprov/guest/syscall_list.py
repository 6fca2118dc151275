"""Children that run a prepared list of system calls instead of Python.

A server's first process makes some 130 calls before execve. If it were a copy of this interpreter, most of
its time would go into copying: page tables at clone, then every page that either side writes (and Python
writes to every object it looks at), and freeing all that at execve. So the child shares the spawner's memory,
like a vfork(2) child, and the machine code below makes the calls of a list for it. The child has no stack and
runs no Python. It writes only the result of each call, next to the call, where the spawner reads it.

Format of a list: 16 bytes, of which the first 8 become the address of the call that failed, then for each
call sixteen 64-bit words:

    0       number of the call
    1-6     arguments
    7       result
    8       the result that counts as success, -1 for any but an error
    9       distance in bytes to the next call
    10, 11  an errno that is no failure, and the distance in bytes to the next call after it
    12, 13  likewise
    14, 15  likewise

Any other error, or a result other than the expected one, ends the child with exit code 1. The list is in
memory that is also shared with forked children.

Three ways to run a list, which give the same results:

- machine code in a child that shares our memory. Only for children that soon call execve, and only in the
  spawner of a command, which ends with the command: nothing that lives long shares memory with a server.
- machine code in a child with a copy of our memory (`own`): where our memory must not be reachable from the
  server. The page tables are all that is copied. `enter` always uses it, because it lives as long as its
  command.
- the function `walk`, in Python, in a fork: for processors without machine code here, where a security module
  forbids executable memory, and when the environment of vsprov has VSPROV_MACHINE_CODE=0.

To change the machine code, change the assembly in the comments of CODE, with any bytes beside a new line, and
`walk`, which must do the same. Then run tests/kernel/test_machine_code.py: it assembles the comments with
as(1) and prints the lines to paste. The tests of the spawner run with the machine code and with `walk`.
"""

from __future__ import annotations

import ctypes
import os
from errno import E2BIG
from mmap import MAP_ANONYMOUS, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE, mmap
from struct import Struct, pack, unpack_from

from .sys_calls import clone3, clone_arguments, mprotect, raw_syscall

TYPE_CHECKING = False  # importing typing would double the heap that every child copies
if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = 16
CALL = Struct("16q")
SIZE = CALL.size

# fmt: off
CODE = {"x86_64": bytes.fromhex(  # entry(clone_args, size of that, list): pid or -errno; System V ABI
    "4989d1"            #         mov    r9, rdx
    "b8b3010000"        #         mov    eax, 435           # clone3
    "0f05"              #         syscall
    "4885c0"            #         test   rax, rax
    "7401"              #         jz     child
    "c3"                #         ret                       # in the parent
    "4d89cc"            # child:  mov    r12, r9
    "498d5910"          #         lea    rbx, [r9 + 16]
    "488b03"            # next:   mov    rax, [rbx]
    "488b7b08"          #         mov    rdi, [rbx + 8]
    "488b7310"          #         mov    rsi, [rbx + 16]
    "488b5318"          #         mov    rdx, [rbx + 24]
    "4c8b5320"          #         mov    r10, [rbx + 32]
    "4c8b4328"          #         mov    r8, [rbx + 40]
    "4c8b4b30"          #         mov    r9, [rbx + 48]
    "0f05"              #         syscall
    "48894338"          #         mov    [rbx + 56], rax
    "483d01f0ffff"      #         cmp    rax, -4095
    "7315"              #         jae    error
    "488b4b40"          #         mov    rcx, [rbx + 64]
    "4883f9ff"          #         cmp    rcx, -1
    "7405"              #         je     done
    "4839c1"            #         cmp    rcx, rax
    "752d"              #         jne    fail
    "48035b48"          # done:   add    rbx, [rbx + 72]
    "ebc2"              #         jmp    next
    "48f7d8"            # error:  neg    rax
    "483b4350"          #         cmp    rax, [rbx + 80]
    "7506"              #         jne    second
    "48035b58"          #         add    rbx, [rbx + 88]
    "ebb3"              #         jmp    next
    "483b4360"          # second: cmp    rax, [rbx + 96]
    "7506"              #         jne    third
    "48035b68"          #         add    rbx, [rbx + 104]
    "eba7"              #         jmp    next
    "483b4370"          # third:  cmp    rax, [rbx + 112]
    "7506"              #         jne    fail
    "48035b78"          #         add    rbx, [rbx + 120]
    "eb9b"              #         jmp    next
    "49891c24"          # fail:   mov    [r12], rbx
    "bf01000000"        #         mov    edi, 1
    "b8e7000000"        #         mov    eax, 231           # exit_group
    "0f05"              #         syscall
    "0f0b"              #         ud2
)}
# fmt: on

CLONE_VM = 0x100


class Memory:
    """Shared memory: the list of calls at its start, the data they point to from offset `texts` on."""

    __slots__ = ("address", "bytes", "cursor", "size", "texts")

    def __init__(self, size: int, texts: int) -> None:
        self.size, self.texts = size, texts
        self.bytes = mmap(-1, size, MAP_SHARED | MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes))
        self.cursor = texts

    def release(self) -> None:
        """Make it available to another list; see `obtain`."""
        self.cursor = self.texts
        _spare.append(self)

    def text(self, content: bytes) -> int:
        """Store bytes and a NUL after them; their address, a multiple of 8. OSError (E2BIG) if full."""
        start = self.cursor
        end = start + len(content)
        if end >= self.size:
            raise OSError(E2BIG, "the request is too large")
        self.bytes[start:end] = content
        self.bytes[end] = 0
        self.cursor = end + 8 & ~7
        return self.address + start

    def load(self, calls: bytes) -> None:
        """Store the list. OSError (E2BIG) if it does not fit."""
        if HEADER + len(calls) > self.texts:
            raise OSError(E2BIG, "the request has too many parts")
        self.bytes[: HEADER + len(calls)] = bytes(HEADER) + calls

    def failed(self) -> int | None:
        """The position in the list of the call that failed; None if none has."""
        (address,) = unpack_from("Q", self.bytes)
        return (address - self.address - HEADER) // SIZE if address else None

    def result(self, position: int) -> int:
        """The result of a call: minus the errno if it failed, 0 if it was not made."""
        value: int = unpack_from("q", self.bytes, HEADER + position * SIZE + 56)[0]
        return value

    def change(self, position: int, *arguments: int) -> None:
        """Replace the first arguments of a call in the stored list."""
        start = HEADER + position * SIZE + 8
        self.bytes[start : start + 8 * len(arguments)] = pack(f"{len(arguments)}q", *arguments)


_spare: list[Memory] = []


def obtain(calls: int, texts: int) -> Memory:
    """Memory for so many bytes of calls and of data they point to; a released one if it is large enough."""
    for position, memory in enumerate(_spare):
        if memory.texts >= calls and memory.size - memory.texts >= texts:
            return _spare.pop(position)
    return Memory(calls + texts, calls)


_code = CODE.get(os.uname().machine, b"")
_page = mmap(-1, 4096, MAP_SHARED | MAP_ANONYMOUS, PROT_READ | PROT_WRITE)
_address = ctypes.addressof(ctypes.c_char.from_buffer(_page))


def _load_code() -> Callable[[bytes, int, int], int] | None:
    _page[: len(_code)] = _code
    try:
        mprotect(_address, 4096, PROT_READ | PROT_EXEC)
    except PermissionError:  # of a security module
        return None
    return ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t)(_address)


_entry = _load_code() if _code else None


def start(flags: int, cgroup: int, memory: Memory, in_python: bool = False, own: bool = False) -> int:
    """Clone a child that makes the calls of a list; its pid. OSError as clone3(2).

    `own`: give it a copy of our memory instead of sharing ours. The OOM killer ends all processes that share
    memory with its victim, and whoever may trace the child may write to its memory.
    """
    if _entry and not in_python:
        arguments = clone_arguments(flags if own else flags | CLONE_VM, cgroup)
        pid = _entry(arguments, len(arguments), memory.address)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid
    pid = clone3(flags, cgroup)
    if pid == 0:
        walk(memory)
        os._exit(1)
    return pid


def is_dumped_after_change() -> bool:
    """Whether a process that changes its user may then be traced by that user: fs.suid_dumpable,
    proc_sys_fs(5).

    If so, a child that shared our memory would make it accessible to its server.
    """
    try:
        with open("/proc/sys/fs/suid_dumpable", "rb") as file:
            return file.read().strip() == b"1"
    except OSError:
        return True


def walk(memory: Memory) -> None:
    """Do in Python what the machine code does; returns when a call fails."""
    at = HEADER
    while True:
        words = CALL.unpack_from(memory.bytes, at)
        result = raw_syscall(*words[:7])
        memory.bytes[at + 56 : at + 64] = pack("q", result)
        jumps = {words[10]: words[11], words[12]: words[13], words[14]: words[15]}
        if result >= 0 and words[8] in (-1, result):
            at += words[9]
        elif result < 0 and -result in jumps:
            at += jumps[-result]
        else:
            memory.bytes[:8] = pack("Q", memory.address + at)
            return
