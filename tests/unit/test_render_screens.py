"""What is shown on screens and consoles, and of progress; data in, text out."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsprov.errors import FailedError, StepError
from vsprov.plan.plan import Change, PathChange
from vsprov.render.console import TerminalFilter
from vsprov.render.progress import Bar, Lines, progress
from vsprov.render.screen import Screen, clean, screen_of, write

HOST = Change("Host", "vsprov", "create", "none", "missing")
CREATE = Change("Server", "a", "create", "none", "missing")
DRIFT = Change("Server", "b", "update", "live", "drift", (PathChange("spec.hostname", "a", "b", "live"),))
DELETE = Change("Image", "e", "delete", "none", "not in the manifest")


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "color"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
    ],
)
def test_colors_are_for_terminals_that_have_them_and_nobody_forbids_them(
    environment: dict[str, str], color: bool
) -> None:
    assert screen_of(Terminal(), environment).color is color
    assert screen_of(Terminal(), environment, color=False).color is False
    assert screen_of(io.StringIO(), environment).color is False
    forced = {**environment, "FORCE_COLOR": "1"}
    assert screen_of(io.StringIO(), forced).color is not bool(environment.get("NO_COLOR"))
    assert screen_of(io.StringIO(), forced, color=False).color is False
    assert screen_of(Terminal(), {**environment, "FORCE_COLOR": ""}).color is color
    assert screen_of(None, environment) == Screen(width=80)


@pytest.mark.parametrize(
    ("environment", "unicode"),
    [
        ({"LANG": "en_US.UTF-8"}, True),
        ({"LANG": "C.utf8"}, True),
        ({"LANG": "C"}, False),
        ({}, False),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, False),
        ({"LC_CTYPE": "en_US.UTF-8", "LANG": "C"}, True),
    ],
)
def test_signs_beyond_ascii_are_for_utf8_locales(environment: dict[str, str], unicode: bool) -> None:
    assert screen_of(Terminal(), environment).unicode is unicode


def test_the_width_is_that_of_columns_or_of_the_terminal() -> None:
    assert screen_of(Terminal(), {"COLUMNS": "123"}).width == 123
    assert screen_of(Terminal(), {"COLUMNS": "0"}).width == 80


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_cleaned_text_has_nothing_a_terminal_obeys(text: str) -> None:
    shown = clean(text)
    assert not any(
        ord(sign) < 0x20 or 0x7F <= ord(sign) < 0xA0 or 0xDC80 <= ord(sign) < 0xDD00 for sign in shown
    )
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def test_clean_text_stays_as_it_is() -> None:
    assert clean("größe → 5 %") == "größe → 5 %"


def test_writing_to_a_narrow_stream_escapes_and_to_none_does_nothing() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    write(stream, "a → b\n")
    stream.flush()
    assert raw.getvalue() == b"a \\u2192 b\n"
    write(None, "nothing")


# -- consoles


def test_a_console_on_a_terminal_controls_nothing_and_keeps_lines_and_tabs() -> None:
    shown = TerminalFilter().feed(b"a\tb\r\n\x1b]0;title\x07\xff\n\r50%\r100%\n")
    assert shown == b"a\tb\n\\e]0;title\\x07\\xff\n\\r50%\\r100%\n"


@given(st.binary(), st.integers(1, 5))
def test_a_console_shows_the_same_however_it_is_cut(content: bytes, size: int) -> None:
    whole = TerminalFilter()
    expected = whole.feed(content) + whole.end()
    if b"\r\n" in content:
        return  # a line end that is cut in two shows its first half
    cut = TerminalFilter()
    parts = b"".join(cut.feed(content[at : at + size]) for at in range(0, len(content), size)) + cut.end()
    assert parts == expected
    assert all(byte >= 0x20 or byte in b"\n\t" for byte in expected)


# -- progress


def test_progress_is_a_line_per_object_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(Screen(unicode=True)) as report:
        for change in (HOST, CREATE):
            report.started(change)
            report.finished(change, None)
        report.started(DRIFT)
        report.finished(DRIFT, StepError("Server/b: no", hint="try\x1b"))
        report.notice("removed\x07 it")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "Server/a: created (0.0s)\nvsprov: Server/b: no\n  hint: try\\e\nremoved\\x07 it\n"


def test_progress_that_has_not_changed_is_not_told_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsprov.render.progress.INTERVAL", 0.0)
    report = progress(Screen(unicode=True))
    for done in (0, 0, 0, 1 << 20, 1 << 20, 2 << 20):
        report.progressed("Image/a", "install packages", done, 0)
    assert capsys.readouterr().err.splitlines() == [
        f"Image/a: install packages: {amount}" for amount in ("…", "1Mi", "2Mi")
    ]


def test_quiet_progress_tells_of_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    report = progress(Screen(unicode=True), quiet=True)
    report.finished(CREATE, None)
    report.notice("something")
    report.finished(DRIFT, FailedError("no"))
    assert capsys.readouterr().err == "vsprov: no\n"


def test_on_a_terminal_a_bar_stays_below_the_lines_and_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(Screen(terminal=True, color=True, unicode=True)) as report:
        assert isinstance(report, Bar)
        report.expect(2)
        for change in (CREATE, DELETE):
            report.started(change)
            report.finished(change, None)
    told = capsys.readouterr().err
    assert "Server/a: created (0.0s)" in told and "Image/e: destroyed (0.0s)" in told
    assert report.bar is None
