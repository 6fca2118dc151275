"""The filter of system calls, run by an interpreter of our own for every ABI."""

from __future__ import annotations

import errno
import struct

import pytest

from vsprov.engine.guests import seccomp

X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
ALLOW = 0x7FFF0000


def decide(machine: str, architecture: int, number: int, *arguments: int) -> int | None:
    """What the filter of a machine answers: the errno, or None if the call is allowed; seccomp(2)."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *(0,) * (6 - len(arguments)))
    lines = list(struct.iter_unpack("HBBI", seccomp.program(machine)))
    at = accumulator = 0
    while True:
        code, if_true, if_false, constant = lines[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif code in (0x15, 0x35):
            at += (
                if_true if accumulator == constant or (code == 0x35 and accumulator > constant) else if_false
            )
        else:
            assert code == 0x06
            return None if constant == ALLOW else constant & 0xFFFF


KEYCTL = [
    ("x86_64", X86_64, 250),
    ("x86_64", I386, 288),
    ("aarch64", AARCH64, 219),
    ("aarch64", ARM, 311),
    ("riscv64", 0xC00000F3, 219),
]


@pytest.mark.parametrize(("machine", "architecture", "number"), KEYCTL)
def test_keys_are_denied_to_programs_of_every_abi(machine: str, architecture: int, number: int) -> None:
    assert decide(machine, architecture, number) == errno.ENOSYS
    assert decide(machine, architecture, number - 2) == errno.ENOSYS  # add_key


FCNTL = [
    ("x86_64", X86_64, 72),
    ("x86_64", I386, 55),
    ("x86_64", I386, 221),
    ("aarch64", AARCH64, 25),
    ("aarch64", ARM, 55),
    ("aarch64", ARM, 221),
]


@pytest.mark.parametrize(("machine", "architecture", "number"), FCNTL)
def test_leases_are_denied_whatever_the_upper_half_of_the_word_is(
    machine: str, architecture: int, number: int
) -> None:
    for upper in (0, 1 << 32, 0xFFFFFFFF << 32):
        assert decide(machine, architecture, number, 3, upper | 1024, 1) == errno.EACCES
        assert decide(machine, architecture, number, 3, upper | 1040, 1) == errno.EINVAL
    for command in (0, 1, 3, 1025, 1026, 1030):
        assert decide(machine, architecture, number, 3, command, 1) is None


SOCKET = [
    ("x86_64", X86_64, 41),
    ("x86_64", I386, 359),
    ("aarch64", AARCH64, 198),
    ("aarch64", ARM, 281),
]


@pytest.mark.parametrize(("machine", "architecture", "number"), SOCKET)
def test_socket_families_of_the_host_are_denied(machine: str, architecture: int, number: int) -> None:
    answers = {family: decide(machine, architecture, number, family | 1 << 32, 1) for family in range(47)}
    assert {family for family, answer in answers.items() if answer} == {38, 40}
    assert answers[38] == answers[40] == errno.EAFNOSUPPORT


IOCTL = [
    ("x86_64", X86_64, 16),
    ("x86_64", I386, 54),
    ("aarch64", AARCH64, 29),
    ("aarch64", ARM, 54),
]
# btrfs(5), linux/btrfs.h: snapshots and subvolumes, old and new, and their flags.
SUBVOLUMES = (0x50009401, 0x5000940E, 0x50009417, 0x50009418, 0x4008941A)


@pytest.mark.parametrize(("machine", "architecture", "number"), IOCTL)
def test_requests_for_subvolumes_are_denied_and_no_others(
    machine: str, architecture: int, number: int
) -> None:
    for request in SUBVOLUMES:
        for upper in (0, 1 << 32, 0xFFFFFFFF << 32):
            assert decide(machine, architecture, number, 3, upper | request, 1) == errno.ENOTTY
        assert decide(machine, architecture, number, request, 0x5401, request) is None
    for request in (0x5401, 0x40049409, 0x4020940D, 0x5000940F, 0x80089419):  # TCGETS, FICLONE, …
        assert decide(machine, architecture, number, 3, request, 1) is None


def test_programs_of_an_unknown_abi_can_make_no_call() -> None:
    assert decide("x86_64", X86_64, 0x40000000) == errno.ENOSYS  # x32's read
    assert decide("x86_64", X86_64, 0x40000000 + 250) == errno.ENOSYS
    assert decide("x86_64", AARCH64, 63) == errno.ENOSYS


@pytest.mark.parametrize("number", [0, 1, 2, 39, 56, 59, 101, 165, 231, 272, 435, 439, 462])
def test_other_calls_are_allowed(number: int) -> None:
    assert decide("x86_64", X86_64, number, *(0xFFFFFFFFFFFFFFFF,) * 6) is None
