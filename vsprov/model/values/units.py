"""Quantities, as written in manifests and as integers.

Sizes are in bytes, CPU time in thousandths of a CPU ("milli"), durations in microseconds, rates of networks
in bits per second. Each `parse_*`
takes a YAML scalar and raises `UnitError` with a hint; each `format_*` returns text that `parse_*` turns back
into the same number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Literal

Max = Literal["max"]
MAX: Max = "max"

BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
DURATION = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
RATE = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9, "Tbit": 10**12}  # as in tc(8)

# ASCII digits only: int() also accepts '１２' and '1_000'.
NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_BYTES = re.compile(rf"({NUMBER})(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?", re.ASCII)
_NUMBER = re.compile(rf"({NUMBER})(k|M|G)?", re.ASCII)
_CPU = re.compile(rf"({NUMBER})(m)?", re.ASCII)
_RATE = re.compile(rf"({NUMBER})({'|'.join(RATE)})", re.ASCII)
_DURATION_PART = re.compile(rf"({NUMBER})(us|ms|s|m|h|d)", re.ASCII)

# The same syntax as JSON Schema patterns, for editors.
BYTES_PATTERN = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"
NUMBER_PATTERN = r"^[0-9]+(\.[0-9]+)?(k|M|G)?$"
CPU_PATTERN = r"^[0-9]+(\.[0-9]+)?m?$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(us|ms|s|m|h|d))+$"
RATE_PATTERN = rf"^[0-9]+(\.[0-9]+)?({'|'.join(RATE)})$"

LARGEST = 2**63 - 1  # the kernel counts in signed 64-bit numbers
LONGEST = 36_500 * DURATION["d"]  # so that a time in the future is one that the system can count and print


class UnitError(ValueError):
    """A value that cannot be parsed; `hint` shows the correct form."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def parse_bytes(raw: object) -> int:
    """The number of bytes from `512Mi`, `1.5Gi`, `2G` (10^9) or a plain integer."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return _in_range(raw, raw)
    match = _BYTES.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise UnitError(f"{short(raw, repr)} is not a size in bytes", _bytes_hint(raw))
    number, suffix = match.groups()
    factor = BINARY.get(suffix) or DECIMAL.get(suffix) or 1
    return _in_range(_whole(Decimal(number) * factor, raw, "bytes"), raw)


def parse_bytes_or_max(raw: object) -> int | Max:
    """As `parse_bytes`, or "max" for no limit."""
    return MAX if raw == MAX else parse_bytes(raw)


def format_bytes(value: int | Max) -> str:
    """`512Mi` if a binary suffix divides the number, otherwise the plain number."""
    if value == MAX:
        return MAX
    for suffix in ("Pi", "Ti", "Gi", "Mi", "Ki"):
        if value and value % BINARY[suffix] == 0:
            return f"{value // BINARY[suffix]}{suffix}"
    return str(value)


def format_rough(value: int) -> str:
    """A size for people, which may not be a round number: `71.2Mi`."""
    for suffix in ("Pi", "Ti", "Gi", "Mi", "Ki"):
        if value >= BINARY[suffix]:
            return f"{value / BINARY[suffix]:.1f}{suffix}"
    return f"{value} bytes"


def parse_number(raw: object) -> int:
    """The number from `100k`, `2M` or a plain integer."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return _in_range(raw, raw)
    match = _NUMBER.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise UnitError(f"{short(raw, repr)} is not a number", "write 100000 or 100k")
    number, suffix = match.groups()
    return _in_range(_whole(Decimal(number) * DECIMAL.get(suffix, 1), raw, "a number"), raw)


def format_number(value: int | Max) -> str:
    """`100k` if a decimal suffix divides the number, otherwise the plain number."""
    if value == MAX:
        return MAX
    for suffix in ("G", "M", "k"):
        if value and value % DECIMAL[suffix] == 0:
            return f"{value // DECIMAL[suffix]}{suffix}"
    return str(value)


def is_decimal_size(raw: object) -> bool:
    """Whether it is written like `10M`, which users of other tools may expect to mean 2^20."""
    return isinstance(raw, str) and raw[-1:] in DECIMAL and raw[-1:] != "k"


def parse_cpu(raw: object) -> int:
    """Thousandths of a CPU from `1500m`, `1.5` or `2`."""
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise UnitError(f"{short(raw, repr)} is not an amount of CPU", "write 1500m or 1.5")
    match = _CPU.fullmatch(str(raw))
    if match is None:
        percent = re.fullmatch(rf"({NUMBER})%", str(raw), re.ASCII)
        hint = f"write {_trim(Decimal(percent[1]) * 10)}m" if percent else "write 1500m or 1.5"
        raise UnitError(f"{short(raw, repr)} is not an amount of CPU", hint)
    number, milli = match.groups()
    value = _whole(Decimal(number) * (1 if milli else 1000), raw, "thousandths of a CPU")
    if value > 1_000_000_000:
        raise UnitError(f"{short(raw)} is more CPUs than any machine has")
    return value


def parse_cpu_or_max(raw: object) -> int | Max:
    """As `parse_cpu`, or "max" for no limit."""
    return MAX if raw == MAX else parse_cpu(raw)


def format_cpu(value: int | Max) -> str:
    """`1500m`, or `2` for whole CPUs."""
    if value == MAX:
        return MAX
    return str(value // 1000) if value and value % 1000 == 0 else f"{value}m"


def parse_duration(raw: object) -> int:
    """Microseconds from `1m30s` or `250ms`. Plain numbers other than 0 are refused."""
    if isinstance(raw, int) and raw == 0 and not isinstance(raw, bool):
        return 0
    if not isinstance(raw, str):
        raise UnitError(
            f"{short(raw, repr)} is not a duration",
            f"write {raw}s or {raw}ms" if isinstance(raw, int) else "write 1m30s",
        )
    total, at = Decimal(0), 0
    for match in _DURATION_PART.finditer(raw):
        if match.start() != at:
            break
        total += Decimal(match[1]) * DURATION[match[2]]
        at = match.end()
    if at != len(raw) or not raw:
        raise UnitError(f"{short(raw, repr)} is not a duration", "write 1m30s, 10s or 250ms")
    if total > LONGEST:
        raise UnitError(f"{short(raw)} is too large", f"{format_duration(LONGEST)} is the maximum")
    return _whole(total, raw, "microseconds")


def format_duration(value: int) -> str:
    """`1m30s`, `250ms`, `0s`."""
    if value == 0:
        return "0s"
    out, rest = [], value
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, rest = divmod(rest, DURATION[unit])
        if count:
            out.append(f"{count}{unit}")
    return "".join(out)


def parse_rate(raw: object) -> int | Max:
    """Bits per second from `100Mbit` or `1.5Gbit`, or "max" for no limit. Plain numbers are refused."""
    if raw == MAX:
        return MAX
    match = _RATE.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise UnitError(f"{short(raw, repr)} is not a rate", _rate_hint(raw))
    rate = _in_range(_whole(Decimal(match[1]) * RATE[match[2]], raw, "bits per second"), raw)
    if rate < SLOWEST_RATE:
        hint = "write max for no limit; a server without interfaces has no network" if rate == 0 else ""
        raise UnitError(f"{short(raw)} is below {format_rate(SLOWEST_RATE)}, the minimum", hint)
    return rate


SLOWEST_RATE = 8000  # bits per second; at less, a packet of 1500 bytes takes more than 1.5 s


def format_rate(value: int | Max) -> str:
    """`100Mbit`, `1500kbit`: the largest unit of which it is a whole number."""
    if value == MAX:
        return MAX
    for suffix in ("Tbit", "Gbit", "Mbit", "kbit"):
        if value and value % RATE[suffix] == 0:
            return f"{value // RATE[suffix]}{suffix}"
    return f"{value}bit"


def _rate_hint(raw: object) -> str:
    """The right form of a rate as other tools write it: 100M, 100mbit, 12.5MB/s, 100Mbps."""
    usual = "write 100Mbit, or max for no limit"
    if not isinstance(raw, str):
        return usual
    match = re.fullmatch(rf"({NUMBER})\s*([kKmMgGtT]?)(i?)(.*)", raw, re.ASCII)
    if raw in ("-1", "unlimited", "infinity", "inf", "none"):
        return "write max for no limit"
    if match is None or not int(Decimal(match[1])):
        return usual
    number, prefix, binary, unit = match.groups()
    factor = (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " ")
    bits, octets = Decimal(number) * factor, Decimal(number) * factor * 8
    if binary or len(number) > 15:
        return usual
    if unit in ("B", "B/s", "Bps", "bytes", "byte/s", "bytes/s"):
        return f"write {format_rate(int(octets))}: rates are in bits per second"
    if unit == "bps":
        return f"write {format_rate(int(bits))} for bits, or {format_rate(int(octets))} for bytes per second"
    if unit.lower() in ("", "bit", "bits", "b", "bit/s", "bits/s", "b/s"):
        return f"write {format_rate(int(bits))}"
    return usual


def parse_id_list(raw: object) -> str:
    """A CPU or node list as the kernel writes it: `0-2` from both `0,1,2` and `0-2`."""
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise UnitError(f"{short(raw, repr)} is not a list of numbers", 'write "0-3,8"')
    ids: set[int] = set()
    for part in str(raw).split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part.strip(" "), re.ASCII)
        if match is None:
            raise UnitError(f"{short(raw, repr)} is not a list of numbers", 'write "0-3,8"')
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UnitError(f"{short(raw, repr)}: {part} is not an ascending range", f"write {last}-{first}")
        ids.update(range(first, last + 1))
    return format_ids(ids)


def expand_ids(text: str) -> frozenset[int]:
    """The numbers in a list written by the kernel: {0, 1, 2, 4} from `0-2,4`."""
    ids: set[int] = set()
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        ids.update(range(int(first), int(last or first) + 1))
    return frozenset(ids)


def format_ids(ids: set[int] | frozenset[int]) -> str:
    """The numbers as the kernel writes them: `0-2,4` for {0, 1, 2, 4}."""
    ranges: list[list[int]] = []
    for number in sorted(ids):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def _whole(value: Decimal, raw: object, unit: str) -> int:
    try:
        exact = value == value.to_integral_value()
    except InvalidOperation:
        raise UnitError(f"{short(raw)} is too large") from None
    if not exact:
        raise UnitError(f"{short(raw, repr)} is not a whole number of {unit}")
    return int(value)


def _in_range(value: int, raw: object) -> int:
    if value < 0:
        raise UnitError(f"{short(raw)} is negative", "write max for no limit" if raw == -1 else "")
    if value > LARGEST:
        raise UnitError(f"{short(raw)} is too large", "write max for no limit")
    return value


def short(raw: object, spell: Callable[[object], str] = str) -> str:
    """The value, shortened to fit in a message. Python refuses to print numbers of 4300 digits."""
    if isinstance(raw, int) and abs(raw) > 2**128:
        return f"a number of {raw.bit_length()} bits"
    text = spell(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _trim(value: Decimal) -> str:
    return format(value.normalize(), "f")


def _bytes_hint(raw: object) -> str:
    if not isinstance(raw, str):
        return "write 512Mi, 2Gi or a whole number of bytes"
    if raw in ("-1", "unlimited", "infinity", "inf", "none"):
        return "write max for no limit"
    match = re.fullmatch(rf"({NUMBER})\s*([KkMmGgTt])(i?[Bb])?", raw, re.ASCII)
    if match is None:
        return "write 512Mi, 2Gi or a whole number of bytes"
    return (
        f"write {match[1]}{match[2].upper()}i (2^{dict(K=10, M=20, G=30, T=40)[match[2].upper()]} bytes each)"
    )
