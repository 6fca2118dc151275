"""Every row, on both versions of control groups: what is written is what is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.effort import examples
from tests.unit.knob_values import HOST, VALUES
from vsprov.model.limits.encodings import Side, normal, writes
from vsprov.model.limits.knobs import BY_PATH, KNOBS, RLIMITS, Knob
from vsprov.model.values import value_kinds
from vsprov.model.values.units import MAX

SIDES = [(knob, version, side) for knob in KNOBS for version in (1, 2) if (side := knob.side(version))]
of_each_side = pytest.mark.parametrize(
    ("knob", "side"), [(k, s) for k, _, s in SIDES], ids=[f"{k.path}-v{v}" for k, v, _ in SIDES]
)
few = examples(20)


def around(knob: Knob, draw: Any) -> dict[str, Any]:
    """The other values of the group, as far as this knob's texts depend on them."""
    return {"memory.max": draw(VALUES[value_kinds.LIMIT_BYTES.name])} if knob.path == "memory.swapMax" else {}


def whole_group(knob: Knob, version: int, group: dict[str, Any]) -> dict[str, str]:
    """The texts of all files of a group on one version."""
    out: dict[str, str] = {}
    wanted = {path: value for path, value in group.items() if value is not None}
    for other in KNOBS:
        if side := other.side(version):
            out |= side.encode(group.get(other.path), wanted, HOST)
    return out


def shown(files: Mapping[str, str]) -> dict[str, str]:
    """What the kernel shows of texts that were written."""
    return {file: normal(file, text) for file, text in files.items()}


@of_each_side
@few
@given(data=st.data())
def test_what_is_read_back_gives_the_same_texts_again(knob: Knob, side: Side, data: st.DataObject) -> None:
    group = around(knob, data.draw)
    version = 1 if side is knob.v1 else 2
    value = data.draw(VALUES[knob.kind.name])
    texts = whole_group(knob, version, {**group, knob.path: value})
    assert {file: texts[file] for file in side.files} == shown({file: texts[file] for file in side.files})
    back = side.decode(texts, HOST)
    again = whole_group(knob, version, {**group, knob.path: back})
    assert again == texts
    # What is read can be written in a manifest, so that `get` can show it.
    if back is not None:
        assert knob.kind.parse(knob.kind.dump(back)) == back
        assert knob.kind.format(back)


EXACT = [
    value_kinds.WEIGHT,
    value_kinds.CPU_OR_MAX,
    value_kinds.DURATION,
    value_kinds.FLAG,
    value_kinds.ID_LIST,
    value_kinds.LIMIT_COUNT,
    value_kinds.IO_DEVICES,
]


@of_each_side
@few
@given(data=st.data())
def test_what_is_read_back_is_the_value_rounded_as_the_kernel_does(
    knob: Knob, side: Side, data: st.DataObject
) -> None:
    group = around(knob, data.draw)
    value = data.draw(VALUES[knob.kind.name])
    texts = whole_group(knob, 1 if side is knob.v1 else 2, {**group, knob.path: value})
    back = side.decode(texts, HOST)
    default = all(texts[file] == text for file, text in side.encode(None, {}, HOST).items())
    if default:
        assert back is None
    elif knob.kind is value_kinds.IO_DEVICES:
        assert back == tuple(row for row in value if any(limit != MAX for _, limit in row[1:]))
    elif knob.kind in EXACT:
        assert back == value and type(back) is type(value)
    elif knob.path == "memory.swapMax" and side is knob.v1:
        assert back == value // 4096 * 4096
    else:
        size = {"64Ki": 2**16, "2Mi": 2**21, "32Mi": 2**25, "1Gi": 2**30}.get(knob.path.split(".")[1], 4096)
        assert back == (MAX if value == MAX or value >= 2**62 else value // size * size)


@of_each_side
def test_the_default_is_written_out_and_read_as_nothing(knob: Knob, side: Side) -> None:
    version = 1 if side is knob.v1 else 2
    texts = side.encode(None, {}, HOST)
    assert set(texts) == set(side.files)
    assert shown(texts) == texts
    assert side.decode(whole_group(knob, version, {}), HOST) is None
    if side.new_group is not None:
        assert side.decode(dict.fromkeys(side.files, side.new_group), HOST) is None


@of_each_side
@few
@given(data=st.data())
def test_texts_no_kernel_wrote_are_read_without_a_traceback(
    knob: Knob, side: Side, data: st.DataObject
) -> None:
    texts = whole_group(knob, 1 if side is knob.v1 else 2, {})
    strange = st.text(max_size=8) | st.sampled_from(
        ["", "max", "-1", "-", "²", "0-", "a 1", "max 0", "1 0", "8:0 x", "8:0 rbps", "1e9", "0\n0", "1.5"]
    )
    for file in side.files:
        texts[file] = data.draw(strange.filter(lambda text: text != MAX or "max" in knob.kind.name))
    value = side.decode(texts, HOST)
    if value is not None:
        assert isinstance(knob.kind.format(value), str)
        knob.kind.dump(value)


@of_each_side
@few
@given(data=st.data())
def test_what_is_written_turns_one_text_into_the_other(knob: Knob, side: Side, data: st.DataObject) -> None:
    group = around(knob, data.draw)
    before, after = (
        side.encode(data.draw(st.none() | VALUES[knob.kind.name]), group, HOST) for _ in range(2)
    )
    for file in side.files:
        lines = {line.split(" ", 1)[0]: line for line in before[file].splitlines()}
        text = before[file]
        for part in writes(side, before[file], after[file]):
            if side.reset:
                number, _, rest = part.partition(" ")
                lines.pop(number, None)
                if rest != side.reset:
                    lines[number] = part
                text = "\n".join(sorted(lines.values()))
            else:
                text = part
        assert text == after[file]


def test_every_path_is_there_once() -> None:
    assert len(BY_PATH) == len(KNOBS)
    assert all(BY_PATH[knob.path] is knob for knob in KNOBS)


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.path)
def test_every_row_is_complete(knob: Knob) -> None:
    group, _, key = knob.path.partition(".")
    assert group and key and "." not in key
    assert knob.doc.endswith(".") and len(knob.doc) > 10
    elsewhere = knob.path.startswith(("network.", "disk."))  # a queueing discipline, a file system
    assert bool(knob.v1 or knob.v2) + bool(knob.rlimit) + knob.admission + elsewhere == 1
    assert not knob.bounds or knob.bounds in BY_PATH
    for side in (knob.v1, knob.v2):
        if side:
            assert side.files
            assert not side.at_most or any(
                side.at_most in other.files for _, _, other in SIDES if other.controller == side.controller
            )


def test_no_file_belongs_to_two_rows() -> None:
    for version in (1, 2):
        files = [file for _, v, side in SIDES if v == version for file in side.files]
        assert len(files) == len(set(files))


def test_the_limits_of_processes_are_those_of_setrlimit() -> None:
    import resource

    assert {f"RLIMIT_{knob.rlimit.upper()}" for knob in RLIMITS} >= {
        name
        for name in dir(resource)
        if name.startswith("RLIMIT_") and name not in ("RLIMIT_OFILE", "RLIMIT_VMEM")
    }


@pytest.mark.parametrize(
    ("path", "version", "value", "texts"),
    [
        ("cpu.weight", 1, 100, {"cpu.shares": "1024"}),
        ("cpu.weight", 1, 1, {"cpu.shares": "10"}),
        ("cpu.weight", 1, 10000, {"cpu.shares": "102400"}),
        ("cpu.weight", 2, 300, {"cpu.weight": "300"}),
        ("cpu.limit", 1, 1500, {"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"}),
        ("cpu.limit", 1, MAX, {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}),
        ("cpu.limit", 2, 10, {"cpu.max": "1000 100000"}),
        ("cpu.cpus", 1, None, {"cpuset.cpus": "0-3"}),
        ("cpu.cpus", 2, None, {"cpuset.cpus": "0-3"}),
        ("memory.max", 1, 10_000, {"memory.limit_in_bytes": "8192"}),
        ("memory.max", 2, 10_000, {"memory.max": "8192"}),
        ("memory.max", 1, 2**63 - 1, {"memory.limit_in_bytes": "-1"}),
        ("memory.max", 2, 2**63 - 1, {"memory.max": "max"}),
        ("memory.oomGroup", 2, True, {"memory.oom.group": "1"}),
        ("pids.max", 1, MAX, {"pids.max": "max"}),
        ("io.weight", 2, 7, {"io.weight": "default 7"}),
        ("hugepages.2Mi", 1, 3 * 2**20, {"hugetlb.2MB.limit_in_bytes": str(2**21)}),
        ("hugepages.1Gi", 2, 2**30 - 1, {"hugetlb.1GB.max": "0"}),
    ],
)
def test_the_kernel_gets_exactly_this(path: str, version: int, value: Any, texts: dict[str, str]) -> None:
    side = BY_PATH[path].side(version)
    assert side is not None
    assert side.encode(value, {path: value}, HOST) == texts


@pytest.mark.parametrize(
    ("memory", "swap", "both"),
    [
        (64 * 2**20, 0, str(64 * 2**20)),
        (64 * 2**20, 32 * 2**20, str(96 * 2**20)),
        (64 * 2**20 + 5, 4097, str(64 * 2**20 + 4096)),
        (64 * 2**20, MAX, "-1"),
        (MAX, 0, "-1"),
        (None, 0, "-1"),
        (2**61, 2**61, "-1"),
    ],
)
def test_v1_limits_memory_and_swap_together(memory: Any, swap: Any, both: str) -> None:
    side = BY_PATH["memory.swapMax"].v1
    assert side is not None
    group = {"memory.swapMax": swap} | ({} if memory is None else {"memory.max": memory})
    assert side.encode(swap, group, HOST) == {"memory.memsw.limit_in_bytes": both}


@pytest.mark.parametrize(
    ("file", "raw", "text"),
    [
        ("memory.limit_in_bytes", "9223372036854771712\n", "-1"),
        ("memory.memsw.limit_in_bytes", "4611686018427387903", "4611686018427387903"),
        ("hugetlb.1GB.limit_in_bytes", "9223372035781033984", "-1"),
        ("hugetlb.2MB.max", "9223372036852678656\n", "max"),
        ("io.weight", "default 100\n8:0 50\n", "default 100"),
        ("io.max", "8:16 rbps=1 wbps=max riops=max wiops=max\n8:0 rbps=2 wbps=max riops=max wiops=max\n",
         "8:0 rbps=2 wbps=max riops=max wiops=max\n8:16 rbps=1 wbps=max riops=max wiops=max"),
        ("cpu.max", "max 100000\n", "max 100000"),
        ("cpuset.cpus", "\n", ""),
    ],
)  # fmt: skip
def test_what_the_kernel_shows_is_made_comparable(file: str, raw: str, text: str) -> None:
    assert normal(file, raw) == text
