"""Quantities: what people write, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.knob_values import SCALARS
from vsprov.model.values import units
from vsprov.model.values.units import LARGEST, MAX, UnitError

PARSERS = (
    units.parse_bytes,
    units.parse_bytes_or_max,
    units.parse_cpu,
    units.parse_cpu_or_max,
    units.parse_duration,
    units.parse_id_list,
)


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        (0, 0),
        ("0", 0),
        (4096, 4096),
        ("512Mi", 512 * 2**20),
        ("1.5Gi", 3 * 2**29),
        ("0.5Ki", 512),
        ("2G", 2 * 10**9),
        ("100k", 100_000),
        ("1Pi", 2**50),
        (LARGEST, LARGEST),
        (str(LARGEST), LARGEST),
    ],
)
def test_bytes_are_read(raw: Any, number: int) -> None:
    assert units.parse_bytes(raw) == number


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        ("512MB", "write 512Mi (2^20 bytes each)"),
        ("512M B", "write 512Mi, 2Gi or a whole number of bytes"),
        ("128m", "write 128Mi (2^20 bytes each)"),
        ("1.5gb", "write 1.5Gi (2^30 bytes each)"),
        ("4K", "write 4Ki (2^10 bytes each)"),
        ("10 MiB", "write 10Mi (2^20 bytes each)"),
        ("-1", "write max for no limit"),
        (-1, "write max for no limit"),
        ("unlimited", "write max for no limit"),
        (LARGEST + 1, "write max for no limit"),
        ("9" * 5000, "write max for no limit"),
        (1.5, "write 512Mi, 2Gi or a whole number of bytes"),
        (True, "write 512Mi, 2Gi or a whole number of bytes"),
        (None, "write 512Mi, 2Gi or a whole number of bytes"),
        ("１２", "write 512Mi, 2Gi or a whole number of bytes"),
        ("1_000", "write 512Mi, 2Gi or a whole number of bytes"),
        ("512Mi\n", "write 512Mi, 2Gi or a whole number of bytes"),
        ("0.3", ""),
    ],
)
def test_bytes_that_could_mean_two_things_are_refused_with_the_right_spelling(raw: Any, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        units.parse_bytes(raw)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("raw", "milli"),
    [("1500m", 1500), ("1.5", 1500), (1.5, 1500), (2, 2000), ("0.001", 1), (0.1, 100), (0, 0)],
)
def test_cpus_are_read_as_thousandths(raw: Any, milli: int) -> None:
    assert units.parse_cpu(raw) == milli


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("50%", "write 500m"),
        ("12.5%", "write 125m"),
        ("two", "write 1500m or 1.5"),
        (-1, "write 1500m or 1.5"),
        (1e-05, "write 1500m or 1.5"),
        (float("nan"), "write 1500m or 1.5"),
        (True, "write 1500m or 1.5"),
        ("0.5m", ""),
        (0.1 + 0.2, ""),
        ("2000000", ""),
    ],
)
def test_cpus_that_cannot_be_read_are_refused(raw: Any, said: str) -> None:
    with pytest.raises(UnitError) as caught:
        units.parse_cpu(raw)
    assert caught.value.hint == said


@pytest.mark.parametrize(
    ("raw", "microseconds"),
    [("1m30s", 90_000_000), ("250ms", 250_000), ("1.5ms", 1500), ("1d", 86_400_000_000), ("7us", 7), (0, 0)],
)
def test_durations_are_read_as_microseconds(raw: Any, microseconds: int) -> None:
    assert units.parse_duration(raw) == microseconds


@pytest.mark.parametrize(
    "raw", [10, "10", "1h ", " 1h", "1.5", "s", "", True, False, None, "0.1us", "1m30", 1.5]
)
def test_durations_without_a_unit_or_with_too_fine_a_one_are_refused(raw: Any) -> None:
    with pytest.raises(UnitError):
        units.parse_duration(raw)


@pytest.mark.parametrize("raw", ["36500d1us", "876001h", "99999999999999d", "9" * 400 + "s"])
def test_durations_of_more_than_a_hundred_years_are_refused(raw: str) -> None:
    with pytest.raises(UnitError, match="is too large") as caught:
        units.parse_duration(raw)
    assert caught.value.hint == "36500d is the maximum"


@pytest.mark.parametrize(
    ("raw", "bits"),
    [("100Mbit", 10**8), ("1.5Gbit", 15 * 10**8), ("8kbit", 8000), ("8000bit", 8000), ("1Tbit", 10**12)],
)
def test_rates_are_read_as_bits_per_second(raw: Any, bits: int) -> None:
    assert units.parse_rate(raw) == bits
    assert units.parse_rate(units.format_rate(bits)) == bits


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        ("100M", "write 100Mbit"),
        ("100mbit", "write 100Mbit"),
        ("10 Mbit/s", "write 10Mbit"),
        ("100Mb", "write 100Mbit"),
        ("12.5MB/s", "write 100Mbit: rates are in bits per second"),
        ("1GB", "write 8Gbit: rates are in bits per second"),
        ("100Mbps", "write 100Mbit for bits, or 800Mbit for bytes per second"),
        ("unlimited", "write max for no limit"),
        ("-1", "write max for no limit"),
        ("50Mi", "write 100Mbit, or max for no limit"),
        ("0", "write 100Mbit, or max for no limit"),
        (100, "write 100Mbit, or max for no limit"),
        (None, "write 100Mbit, or max for no limit"),
        ("9" * 99 + "M", "write 100Mbit, or max for no limit"),
        ("0bit", "write max for no limit; a server without interfaces has no network"),
        ("7999bit", ""),
        ("0.5bit", ""),
        ("99999999999Gbit", "write max for no limit"),
    ],
)
def test_rates_of_other_forms_are_refused_with_the_right_one(raw: Any, hint: str) -> None:
    with pytest.raises(UnitError) as error:
        units.parse_rate(raw)
    assert error.value.hint == hint


@pytest.mark.parametrize(
    ("raw", "kernel"), [("0,1,2", "0-2"), ("2,0-1", "0-2"), (3, "3"), ("0-2,4, 8", "0-2,4,8"), ("5-5", "5")]
)
def test_lists_are_spelt_as_the_kernel_does(raw: Any, kernel: str) -> None:
    assert units.parse_id_list(raw) == kernel


@pytest.mark.parametrize(
    "raw", ["3-0", "0-", "-1", -1, "0,,1", "a", "0\n", "0 - 3", "", "100000", True, None, 1.0]
)
def test_lists_that_cannot_be_read_are_refused(raw: Any) -> None:
    with pytest.raises(UnitError):
        units.parse_id_list(raw)


@given(st.integers(0, LARGEST))
def test_what_is_shown_of_a_number_is_read_as_that_number(number: int) -> None:
    assert units.parse_bytes(units.format_bytes(number)) == number
    time = number % (units.LONGEST + 1)
    assert units.parse_duration(units.format_duration(time)) == time
    assert units.parse_cpu(units.format_cpu(number % 10**9)) == number % 10**9


def test_no_limit_is_shown_as_max() -> None:
    assert units.format_bytes(MAX) == units.format_cpu(MAX) == MAX
    assert units.parse_bytes_or_max(MAX) == units.parse_cpu_or_max(MAX) == MAX


@given(st.sets(st.integers(0, 99999), max_size=30))
def test_a_list_expands_to_what_it_was_made_of(ids: set[int]) -> None:
    assert units.expand_ids(units.format_ids(ids)) == ids


@given(SCALARS | st.lists(SCALARS, max_size=2) | st.integers(10**40, 10**3400))
def test_anything_is_read_or_refused_with_a_short_line(raw: Any) -> None:
    for parse in PARSERS:
        try:
            value = parse(raw)
        except UnitError as error:
            assert "\n" not in str(error) and len(str(error)) < 200
        else:
            assert value == MAX or isinstance(value, str) or 0 <= value <= LARGEST
