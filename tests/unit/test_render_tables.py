"""Tables: aligned, within the width of the terminal, with short sizes and durations."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from vsprov.render import tables
from vsprov.render.screen import Screen
from vsprov.render.tables import Table

PLAIN = Screen(unicode=True)


def test_a_table_is_aligned_with_numbers_at_the_right() -> None:
    table = Table(
        ("NAME", "PID", "STATE"), (("a", "5", "Running"), ("longer", "12345", "Stopped")), frozenset({"PID"})
    )
    assert tables.text(table, PLAIN) == (
        "NAME      PID  STATE\na           5  Running\nlonger  12345  Stopped"
    )


WIDTHS = Table(
    ("NAME", "PID", "SOURCE", "USED BY"),
    (("a", "5", "oci registry.example/some/image:1", "web1, web2, and db1"),),
    frozenset({"PID"}),
    ("PID",),
)


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (
            67,
            "NAME  PID  SOURCE                             USED BY\n"
            "a       5  oci registry.example/some/image:1  web1, web2, and db1",
        ),
        (
            60,
            "NAME  SOURCE                             USED BY\n"
            "a     oci registry.example/some/image:1  web1, web2, and db1\n"
            "Not shown on a terminal of 60 columns: PID",
        ),
        (
            50,
            "NAME  SOURCE                   USED BY\n"
            "a     oci registry.example/so  web1, web2, and db1\n"
            "      me/image:1\n"
            "Not shown on a terminal of 50 columns: PID",
        ),
        (
            20,
            "NAME  SOURCE        USED BY\n"
            "a     oci registry  web1, web2,\n"
            "      .example/som  and db1\n"
            "      e/image:1\n"
            "Not shown on a terminal of 20 columns: PID",
        ),
    ],
)
def test_a_table_on_a_narrow_terminal_lacks_columns_and_wraps_text_but_truncates_none(
    width: int, shown: str
) -> None:
    assert tables.text(WIDTHS, Screen(terminal=True, width=width)) == shown


def test_a_table_in_a_file_and_a_wide_table_are_as_wide_as_they_have_to_be() -> None:
    whole = tables.text(WIDTHS, Screen(width=10))
    assert [len(line) for line in whole.splitlines()] == [53, 65]
    assert tables.text(replace(WIDTHS, wide=True), Screen(terminal=True, width=10)) == whole


def test_words_in_a_table_cannot_control_the_terminal() -> None:
    assert tables.text(Table(("A",), (("\x1b[31m\n",),)), PLAIN) == "A\n\\e[31m\\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0"),
        (512, "512"),
        (1024, "1Ki"),
        (1536, "1.5Ki"),
        (64 << 20, "64Mi"),
        (99999744, "95.4Mi"),
        (3 << 40, "3Ti"),
        ((1 << 40) - 4096, "1024.0Gi"),
    ],
)
def test_sizes_are_short(count: Any, text: str) -> None:
    assert tables.size(count) == text


@pytest.mark.parametrize(
    ("files", "count", "text"),
    [
        (0, 0, "0 files, 0 bytes"),
        (1, 1, "1 file, 1 byte"),
        (2, 12, "2 files, 12 bytes"),
        (3, 1536, "3 files, 1.5Ki"),
    ],
)
def test_an_amount_has_units(files: int, count: int, text: str) -> None:
    assert tables.amount(files, count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.4, "0s"),
        (59.9, "59s"),
        (60, "1m0s"),
        (3661, "1h1m"),
        (3600, "1h0m"),
        (86400, "1d0h"),
        (8 * 86400 + 7200, "8d2h"),
    ],
)
def test_durations_show_their_two_largest_units(seconds: float | None, text: str) -> None:
    assert tables.duration(seconds) == text


def _lan(*servers: str, up: bool) -> dict[str, Any]:
    return {
        "metadata": {"name": "lan"},
        "spec": {"type": "bridge", "subnets": ["10.20.0.0/24", "fd20::/64"]},
        "status": {"link": "vb1", "up": up, "servers": servers, "set": "vsprov/default"},
    }


@pytest.mark.parametrize(
    ("up", "count", "link", "servers"),
    [
        (True, 0, "vb1", "-"),
        (True, 5, "vb1", "s0, s1, s2, s3, s4"),
        (False, 1000, "vb1 (down)", "s0, s1, s2, s3, s4 + 995 more"),
    ],
)
def test_a_wide_table_of_networks_lists_some_servers_and_shows_a_bridge_that_is_down(
    up: bool, count: int, link: str, servers: str
) -> None:
    documents = [_lan(*(f"s{number}" for number in range(count)), up=up)]
    (row,) = tables.objects("Network", documents, wide=True).rows
    assert row == ("lan", "bridge", "10.20.0.0/24, fd20::/64", link, servers, "vsprov/default")
