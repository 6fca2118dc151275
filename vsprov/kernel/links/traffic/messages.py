"""Messages of traffic control, tc(8): what queueing disciplines, classes and filters have in common."""

from __future__ import annotations

from struct import Struct, pack

TC = Struct("=BxxxiIII")
TCA_KIND, TCA_OPTIONS = 1, 2
ALL_PROTOCOLS = 0x0300  # ETH_P_ALL in network byte order
_RATE = Struct("=BBHhHI")
_LINKLAYER_ETHERNET = 1
_TC_U32_TERMINAL = 1
_LARGEST = 0xFFFFFFFF
# Selects every packet, for a filter of kind u32.
EVERYTHING = pack("=BBBxHHhhI", _TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + bytes(16)


def rate_spec(rate: int) -> bytes:
    """A rate in bytes per second; one of more than 32 bits needs an attribute of its own."""
    return _RATE.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _LARGEST))


def rate_of(spec: memoryview) -> int:
    return int(_RATE.unpack_from(spec)[5])


NO_RATE = bytes(_RATE.size)
