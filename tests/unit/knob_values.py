"""Values of every kind a knob can have, and things that are nearly such values."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from vsprov.model.disk_backends import AUTO, BACKENDS
from vsprov.model.limits.encodings import Host
from vsprov.model.values import value_kinds
from vsprov.model.values.units import LARGEST, LONGEST, MAX, SLOWEST_RATE, format_ids
from vsprov.model.values.value_kinds import MOST_IOPS, SMALLEST_CPU, ValueKind

HOST = Host(4096, "0-3", "0-1", {"/dev/vda": "8:0", "/dev/vdb": "8:16", "/dev/vdc": "254:0"})


def edges(low: int, high: int) -> st.SearchStrategy[int]:
    """Whole numbers within bounds, often at them and where units change."""
    usual = [low, high, *(n for k in (10, 12, 20, 30, 40, 62) for n in (2**k - 1, 2**k, 2**k + 1)), 100, 1000]
    return st.sampled_from([n for n in usual if low <= n <= high]) | st.integers(low, high)


SIZES = edges(0, LARGEST)
LIMITS = SIZES | st.just(MAX)
RLIMITS = st.tuples(LIMITS, LIMITS).filter(lambda v: v[1] == MAX or (v[0] != MAX and v[0] <= v[1]))


@st.composite
def io_devices(draw: st.DrawFn) -> tuple[tuple[tuple[str, Any], ...], ...]:
    rows = []
    for device in sorted(draw(st.sets(st.sampled_from(sorted(HOST.devices)), min_size=1))):
        row: list[tuple[str, Any]] = [("device", device)]
        for key in ("readBps", "writeBps", "readIops", "writeIops"):
            most = LARGEST if key.endswith("Bps") else MOST_IOPS
            row.append((key, draw(st.just(MAX) | edges(1, most))))
        rows.append(tuple(row))
    return tuple(rows)


VALUES: dict[str, st.SearchStrategy[Any]] = {}
for _kind, _values in (
    (value_kinds.BYTES, edges(0, 2**62 - 1)),  # protections; above, the kernel takes them for "max"
    (value_kinds.LIMIT_BYTES, LIMITS),
    (value_kinds.CPU, edges(0, 10**9)),
    (value_kinds.CPU_OR_MAX, edges(SMALLEST_CPU, 10**9) | st.just(MAX)),
    (value_kinds.DURATION, edges(0, LONGEST)),
    (value_kinds.RATE, edges(SLOWEST_RATE, 2**62) | st.just(MAX)),
    (value_kinds.WEIGHT, st.integers(1, 10000)),
    (value_kinds.LIMIT_COUNT, edges(1, 2**22) | st.just(MAX)),
    (value_kinds.NUMBER_OR_MAX, LIMITS),
    (value_kinds.DISK_BACKEND, st.sampled_from([AUTO, *BACKENDS])),
    (value_kinds.FLAG, st.booleans()),
    (value_kinds.ID_LIST, st.sets(st.integers(0, 300), min_size=1, max_size=20).map(format_ids)),
    (value_kinds.RLIMIT, RLIMITS),
    (value_kinds.RLIMIT_BYTES, RLIMITS),
    (value_kinds.IO_DEVICES, io_devices()),
):
    VALUES[_kind.name] = _values

NUMBERS = st.sampled_from(
    ["0", "1", "007", "1.5", "0.5", "1.0000", ".5", "1.", "1e3", "-1", "+1", "１２", "1_000", "²", ""]
)
SUFFIXES = st.sampled_from(
    ["", "m", "M", "Mi", "mi", "MB", "k", "K", "Ki", "%", "s", "ms", "us", "d", " ", "\n", "P", "Pi"]
)
WORDS = st.sampled_from(
    [
        "max",
        "MAX",
        "unlimited",
        "-1",
        "none",
        "inf",
        "nan",
        "0-3,8",
        "3-0",
        "0 - 3",
        " 0",
        ",",
        "0,",
        "1m30s",
        "1s1d",
    ]
)
SCALARS = st.one_of(
    WORDS,
    st.builds("{}{}".format, NUMBERS, SUFFIXES),
    st.text(max_size=6),
    st.integers(-5, 2**65),
    st.floats(),
    st.booleans(),
    st.none(),
)


def nasty(kind: ValueKind) -> st.SearchStrategy[Any]:
    """What a file may hold where a value of the kind should be: of the outer shape its schema has."""
    if kind in (value_kinds.RLIMIT, value_kinds.RLIMIT_BYTES):
        keys = st.dictionaries(st.sampled_from(["soft", "hard"]), SCALARS, max_size=2)
        return SCALARS | keys | VALUES[kind.name].map(kind.dump)
    if kind is value_kinds.IO_DEVICES:
        device = st.sampled_from(["/dev/vda", "/dev/vdb"])
        optional = dict.fromkeys(("readBps", "writeBps", "readIops", "writeIops"), SCALARS)
        row = st.fixed_dictionaries({"device": device}, optional=optional)
        return st.lists(row, max_size=3) | VALUES[kind.name].map(kind.dump)
    return SCALARS | VALUES[kind.name].map(kind.dump)
