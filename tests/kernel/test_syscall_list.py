"""Lists of system calls, made by machine code and in Python: the same calls, jumps and results."""

from __future__ import annotations

import errno
import os
import resource
import struct
from collections.abc import Iterator

import pytest

from vsprov.guest import syscall_list
from vsprov.guest.child.program import Program
from vsprov.guest.sys_calls import raw_syscall

pytestmark = pytest.mark.vm_subset
IN_PYTHON = pytest.mark.parametrize("in_python", [False, True], ids=["machine code", "python"])
KCMP = {"x86_64": 312, "aarch64": 272}[os.uname().machine]
KCMP_VM = 1
# A call for each of these errnos.
WRONG: dict[int, tuple[str, int | bytes]] = {
    errno.ENOENT: ("chdir", b"/no/such/directory"),
    errno.EBADF: ("close", -1),
    errno.ENOTDIR: ("chdir", b"/proc/self/status"),
    errno.EINVAL: ("unshare", 1),
}


@pytest.fixture
def program() -> Iterator[Program]:
    yield Program(syscall_list.Memory(65536, 32768))


def run(program: Program, in_python: bool) -> int:
    """Make the calls in a child; its exit code."""
    program.finish()
    pid = syscall_list.start(0, 0, program.memory, in_python)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def results(program: Program) -> list[int]:
    return [program.memory.result(position) for position in range(len(program.calls))]


def test_this_processor_has_machine_code_or_none_is_written_for_it() -> None:
    assert (syscall_list._entry is not None) == (os.uname().machine in syscall_list.CODE)


@pytest.mark.parametrize("own", [False, True])
def test_a_child_shares_our_memory_or_has_its_own(program: Program, own: bool) -> None:
    ours, theirs = os.pipe(), os.pipe()
    program.call("write", ours[1], b"here", 4)
    program.call("read", theirs[0], bytes(1), 1, want=1)
    program.call("close", -1)
    program.finish()
    pid = syscall_list.start(0, 0, program.memory, own=own)
    try:
        assert os.read(ours[0], 4) == b"here"
        shared = raw_syscall(KCMP, os.getpid(), pid, KCMP_VM, 0, 0, 0) == 0
    finally:
        os.write(theirs[1], b"x")
        os.waitpid(pid, 0)
    assert shared == (syscall_list._entry is not None and not own)
    for fd in (*ours, *theirs):
        os.close(fd)


@IN_PYTHON
def test_calls_are_made_in_order_until_one_fails(program: Program, in_python: bool) -> None:
    reader, writer = os.pipe()
    program.call("write", writer, b"one ", 4)
    program.call("write", writer, b"two", 3, want=3)
    program.call("close", -1)
    program.call("write", writer, b"never", 5)
    assert run(program, in_python) == 1
    assert os.read(reader, 100) == b"one two"
    assert program.memory.failed() == 2
    assert results(program) == [4, 3, -errno.EBADF, 0]
    os.close(reader)
    os.close(writer)


@IN_PYTHON
def test_another_result_than_the_wanted_one_is_a_failure(program: Program, in_python: bool) -> None:
    program.call("umask", 0o022)
    program.call("umask", 0o022, want=0o077)
    assert run(program, in_python) == 1
    assert program.memory.failed() == 1
    assert program.memory.result(1) == 0o022


@IN_PYTHON
@pytest.mark.parametrize(
    ("number", "made"),
    [(errno.ENOENT, [0, 1, 4]), (errno.EBADF, [0, 2, 4]), (errno.ENOTDIR, [0, 3, 4]), (errno.EINVAL, [0])],
)
def test_an_errno_leads_to_the_call_foreseen_for_it(
    program: Program, in_python: bool, number: int, made: list[int]
) -> None:
    name, argument = WRONG[number]
    reader, writer = os.pipe()
    jumps = [(errno.ENOENT, 1), (errno.EBADF, 2), (errno.ENOTDIR, 3)]
    program.call(name, argument, on=jumps)
    program.call("write", writer, b"1", 1, skip=3)
    program.call("write", writer, b"2", 1, skip=2)
    program.call("write", writer, b"3", 1, skip=1)
    program.call("close", -1)
    assert run(program, in_python) == 1
    os.close(writer)
    assert os.read(reader, 100) == "".join(map(str, made[1:-1])).encode()
    os.close(reader)
    assert program.memory.failed() == made[-1]
    assert program.memory.result(0) == -number


@IN_PYTHON
def test_arguments_and_answers_of_64_bits_arrive_whole(program: Program, in_python: bool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    large = struct.pack("2q", 0, hard)
    answer = program.memory.text(bytes(16))
    program.call("prlimit64", 0, resource.RLIMIT_CORE, large, None)
    program.call("prlimit64", 0, resource.RLIMIT_CORE, None, answer)
    program.call("close", -1)
    assert run(program, in_python) == 1
    offset = answer - program.memory.address
    assert program.memory.bytes[offset : offset + 16] == large
    assert resource.getrlimit(resource.RLIMIT_CORE) == (soft, hard)  # a child's limits are its own


@IN_PYTHON
def test_execve_ends_the_list(program: Program, in_python: bool) -> None:
    arguments = program.memory.text(
        b"".join(program.memory.text(word).to_bytes(8, "little") for word in (b"sh", b"-c", b"exit 7"))
        + bytes(8)
    )
    program.call("execve", b"/nowhere", arguments, None, on=[(errno.ENOENT, 1)])
    program.call("execve", b"/bin/sh", arguments, None)
    assert run(program, in_python) == 7
    assert program.memory.failed() is None


@IN_PYTHON
def test_arguments_can_be_changed_when_the_list_is_finished(program: Program, in_python: bool) -> None:
    program.call("umask", 0o022)
    program.call("umask", 0o022, want=0o055)
    program.call("close", -1)
    program.finish()
    program.memory.change(0, 0o055)
    pid = syscall_list.start(0, 0, program.memory, in_python)
    os.waitpid(pid, 0)
    assert program.memory.failed() == 2


def test_memory_is_used_again_when_it_is_large_enough() -> None:
    first = syscall_list.obtain(4096, 4096)
    first.text(b"something")
    first.release()
    assert syscall_list.obtain(8192, 4096) is not first
    again = syscall_list.obtain(4096, 4096)
    assert again is first
    assert again.cursor == again.texts


def test_what_does_not_fit_is_refused(program: Program) -> None:
    with pytest.raises(OSError, match="too large"):
        program.memory.text(bytes(40000))
    for _ in range(300):
        program.call("close", -1)
    with pytest.raises(OSError, match="too many parts"):
        program.finish()


def test_a_refusal_of_the_kernel_to_clone_is_an_error(program: Program) -> None:
    program.call("close", -1)
    program.finish()
    with pytest.raises(OSError) as refusal:
        syscall_list.start(0x200000000, 0, program.memory)  # CLONE_INTO_CGROUP an fd that is no cgroup
    assert refusal.value.errno == errno.EBADF
