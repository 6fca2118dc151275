"""Rates of interfaces as the kernel keeps them. Pure."""

from __future__ import annotations

from msgspec import Struct

_LEAST_BURST = 16384  # bytes: some full packets, and at 1 Mbit/s an eighth of a second
_LEAST_QUEUE = 65536  # one packet before segmentation
_SECONDS_OF_BURST = 0.02
_SECONDS_OF_QUEUE = 0.1
_LARGEST = (1 << 32) - 1  # bytes; limit and burst of tbf are numbers of 32 bits


def round_rate(rate: int) -> int:
    """The rate that the kernel shows after `rate` was set: it counts whole bytes per second, at least one."""
    return max(rate // 8, 1) * 8


class Bucket(Struct, frozen=True):
    """The parameters of a token bucket, tc-tbf(8), in bytes and bytes per second."""

    rate: int
    burst: int
    limit: int


def bucket(rate: int, mtu: int) -> Bucket:
    """The token bucket that lets `rate` bits per second through.

    A burst of 20 ms makes up for delays of a busy host, and adds 2 % to the first second. A packet that
    is larger than the burst would be dropped. A queue of 100 ms lets one TCP connection use the whole rate.
    """
    per_second = round_rate(rate) // 8
    burst = min(max(_LEAST_BURST, 2 * mtu, int(per_second * _SECONDS_OF_BURST)), _LARGEST // 4)
    queue = max(_LEAST_QUEUE, 4 * mtu, int(per_second * _SECONDS_OF_QUEUE))
    return Bucket(per_second, burst, min(burst + queue, _LARGEST))


def shaper(link: str) -> str:
    """The name of the intermediate device (ifb) that limits what arrives on the host's end of a veth."""
    return f"vf{link[2:]}"
