"""What is shown: plans, problems, screens, consoles; data in, text out."""

from __future__ import annotations

import io

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vsprov.errors import FailedError, Position, Problem, StepError
from vsprov.plan.plan import Change, PathChange, Plan
from vsprov.plan.steps import Stop
from vsprov.render import plan as plans
from vsprov.render import problems
from vsprov.render.console import TerminalFilter
from vsprov.render.progress import Bar, Lines, progress
from vsprov.render.screen import Screen, clean, screen_of, write

PLAIN = Screen(unicode=True)
ASCII = Screen()
COLOR = Screen(terminal=True, color=True, unicode=True)

CREATE = Change("Server", "a", "create", "none", "missing")
DRIFT = Change(
    "Server",
    "b",
    "update",
    "live",
    "drift",
    (PathChange("spec.resources.memory.max", 1, 2, "live", ("256Mi", "512Mi")),),
    notes=("memory.high is not enforced: …",),
)
RESTART = Change(
    "Server",
    "c",
    "update",
    "restart",
    "changed",
    (
        PathChange("spec.init.command", [], [], "restart", ('["a"]', '["b"]')),
        PathChange("spec.state", "Stopped", "Running", "none", ("Stopped", "—")),
    ),
    steps=(Stop("c", "TERM", 1),),
)
REPLACE = Change(
    "Server",
    "d",
    "replace",
    "recreate",
    "changed",
    (PathChange("spec.ephemeral", 0, 1, "recreate", ("false", "true")),),
)
DELETE = Change("Image", "e", "delete", "none", "not in the manifest")
HOST = Change("Host", "vsprov", "create", "none", "missing")
PLAN = Plan((HOST, CREATE, DRIFT, RESTART, REPLACE, DELETE))

TEXT = """\
  + Server/a
  ~ Server/b  (drift)
      spec.resources.memory.max: 256Mi → 512Mi (live)
      note: memory.high is not enforced: …
  ~ Server/c  ↻ restart
      spec.init.command: ["a"] → ["b"] (restart)
      spec.state: Stopped → —
-/+ Server/d  ↻ recreate
      spec.ephemeral: false → true (recreate)
  - Image/e

Plan: 1 to add, 2 to change, 1 to replace, 1 to destroy; 1 restart"""


def test_a_plan_is_readable_at_a_glance() -> None:
    assert plans.text(PLAN, PLAIN) == TEXT


def test_where_the_locale_is_not_utf8_a_plan_is_ascii() -> None:
    shown = plans.text(Plan((CREATE, RESTART)), ASCII)
    assert shown.isascii()
    assert "  ~ Server/c  ! restart\n" in shown
    assert "spec.state: Stopped -> -" in shown


def test_colors_add_nothing_but_colors() -> None:
    import re

    shown = plans.text(PLAN, COLOR)
    assert shown != TEXT
    assert re.sub("\x1b\\[[0-9;]*m", "", shown) == TEXT


def test_verbose_adds_the_hosts_own_groups_and_every_step() -> None:
    shown = plans.text(PLAN, PLAIN, verbose=True)
    assert shown.startswith("  + Host/vsprov\n")
    assert "\n      stop c (SIGTERM)\n" in shown


def test_a_plan_for_the_hosts_groups_alone_shows_them() -> None:
    assert plans.text(Plan((HOST,)), PLAIN).startswith("  + Host/vsprov\n")


@pytest.mark.parametrize(
    ("unchanged", "text"),
    [
        (
            ("Image/i", "Server/a", "Server/b", "Server/c"),
            "Nothing to do: 3 servers, 1 image match the manifest.",
        ),
        (("Server/a",), "Nothing to do: 1 server matches the manifest."),
        ((), "Nothing to do."),
    ],
)
def test_an_empty_plan_says_so(unchanged: tuple[str, ...], text: str) -> None:
    assert plans.text(Plan((), unchanged=unchanged), PLAIN) == text


def test_values_in_a_plan_cannot_control_the_terminal_and_do_not_flood_it() -> None:
    path = PathChange("spec.init.env.A", "", "", "restart", ("\x1b[2J\n", "x" * 5000))
    shown = plans.text(Plan((Change("Server", "a", "update", "restart", "changed", (path,)),)), PLAIN)
    assert "spec.init.env.A: \\e[2J\\n → x" in shown
    assert max(map(len, shown.splitlines())) < 250


def test_a_verbose_plan_shows_the_spec_of_what_is_made() -> None:
    spec = {"image": "i", "resources": {"memory": {"max": 64 << 20}}, "init": {"command": ["a", "b"]}}
    made = Change("Server", "a", "create", "none", "missing", desired=spec)
    assert plans.text(Plan((made,)), PLAIN, verbose=True).splitlines()[:4] == [
        "  + Server/a",
        "      spec.image: i",
        "      spec.resources.memory.max: 64Mi",
        '      spec.init.command: ["a", "b"]',
    ]
    assert plans.text(Plan((made,)), PLAIN).splitlines()[:2] == ["  + Server/a", ""]


def test_a_plan_says_how_much_written_data_is_lost() -> None:
    shown = plans.text(Plan((DELETE, REPLACE, CREATE)), PLAIN, losses={REPLACE.address: 3 << 20})
    assert f"{REPLACE.address}  ↻ recreate  (3Mi of written files will be lost)\n" in shown
    assert shown.count("will be lost") == 1


def shown_change(before: str, after: str, *, verbose: bool = False) -> str:
    """How a plan shows the change of a value."""
    path = PathChange("spec.hostname", before, after, "live", (before, after))
    change = Change("Server", "a", "update", "live", "changed", (path,))
    line = plans.text(Plan((change,)), PLAIN, verbose=verbose).splitlines()[1]
    return line.removeprefix("      spec.hostname: ").removesuffix(" (live)")


A, B = "-Dfirst=" + "a" * 200, "b" * 200


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("short", "shorter", "short → shorter"),
        (
            f"{A} -Xmx512m {B}",
            f"{A} -Xmx1g {B}",
            f"… {'a' * 19} -Xmx512m {'b' * 23} … → … {'a' * 19} -Xmx1g {'b' * 23} …",
        ),
        (f"{A}1", f"{A}12", f"… {'a' * 23}1 → … {'a' * 23}12"),
        (f"1{B}", f"21{B}", f"1{'b' * 23} … → 21{'b' * 23} …"),
        (f"{A}", f"{A}{B}", f"… {'a' * 24} → … {'a' * 24}{'b' * 56} … {'b' * 80}"),
        (f"{A}x{A}", f"{A}xx{A}", f"… {'a' * 23}x{A[:24]} … → … {'a' * 23}xx{A[:24]} …"),
        ("—", f"{A}{B}", f"— → {A[:80]} … {'b' * 80}"),
        ("a b", "a b ", '"a b" → "a b "'),
        ("\ta", " a", '"\\ta" → " a"'),
        ("a b", "a\xa0b", "a b → a\\xa0b"),
        ("ab", "a\u200bb", "ab → a\\u200bb"),
        ("é", "e\u0301", '"\\u00e9" → "e\\u0301"'),
        ("a\n", "a\\n", '"a\\n" → "a\\\\n"'),
        ("Größe", "Grösse", "Größe → Grösse"),
    ],
)
def test_a_plan_shows_the_place_where_a_value_changes(before: str, after: str, shown: str) -> None:
    assert shown_change(before, after) == shown


TEXTS = st.text(st.characters(exclude_characters="→"), max_size=200)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_a_plan_never_shows_two_different_values_as_the_same(
    head: str, tail: str, before: str, after: str
) -> None:
    assume(before != after and head + before + tail)  # an empty value is shown as ""
    old, arrow, new = shown_change(head + before + tail, head + after + tail).partition(" → ")
    assert arrow and old != new
    assert len(old) < 2000 and "\n" not in old


def test_a_change_in_words_has_no_arrow() -> None:
    path = PathChange("spec.ports", None, ["80/tcp"], "live", ("", "+ 80/tcp"))
    shown = plans.text(Plan((Change("Server", "a", "update", "live", "changed", (path,)),)), PLAIN)
    assert "      spec.ports: + 80/tcp (live)\n" in shown


def test_a_verbose_plan_shows_long_values_whole() -> None:
    assert shown_change(A, B, verbose=True) == f"{A} → {B}"


def changed_state(before: str, after: str) -> Change:
    path = PathChange("spec.state", before, after, "none")
    return Change("Server", "a", "update", "none", "drift", (path,))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (CREATE, "created"),
        (DRIFT, "updated"),
        (RESTART, "restarted"),
        (REPLACE, "replaced"),
        (DELETE, "destroyed"),
        (Change("Server", "a", "update", "none", "stop"), "stopped"),
        (Change("Server", "a", "update", "none", "start"), "started"),
        (changed_state("Exited (1)", "Running"), "started"),
        (changed_state("Running", "Stopped"), "stopped"),
        (changed_state("Frozen", "Running"), "updated"),
    ],
)
def test_a_change_that_was_made_has_its_word(change: Change, word: str) -> None:
    assert plans.done(change) == word


def test_the_result_counts_what_was_made() -> None:
    assert plans.result([CREATE, RESTART]) == "1 added, 1 changed, 0 destroyed; 1 restarted"
    assert plans.result([]) == "0 added, 0 changed, 0 destroyed"


def test_what_is_left_over_is_shown_as_in_a_plan() -> None:
    shown = plans.left_over(Plan((DRIFT,)), PLAIN)
    assert "spec.resources.memory.max" in shown


# -- progress


def test_progress_is_a_line_per_object_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(PLAIN) as report:
        for change in (HOST, CREATE):
            report.started(change)
            report.finished(change, None)
        report.started(DRIFT)
        report.finished(DRIFT, StepError("Server/b: no", hint="try\x1b"))
        report.notice("removed\x07 it")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "Server/a: created (0.0s)\nvsprov: Server/b: no\n  hint: try\\e\nremoved\\x07 it\n"


def test_quiet_progress_tells_of_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    report = progress(PLAIN, quiet=True)
    report.finished(CREATE, None)
    report.notice("something")
    report.finished(DRIFT, FailedError("no"))
    assert capsys.readouterr().err == "vsprov: no\n"


def test_on_a_terminal_a_bar_stays_below_the_lines_and_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(COLOR) as report:
        assert isinstance(report, Bar)
        report.expect(2)
        for change in (CREATE, DELETE):
            report.started(change)
            report.finished(change, None)
    told = capsys.readouterr().err
    assert "Server/a: created (0.0s)" in told and "Image/e: destroyed (0.0s)" in told
    assert report.bar is None


# -- problems


def test_a_problem_is_its_place_subject_path_and_message_with_the_hint_below() -> None:
    problem = Problem("unknown key", Position("a.yaml", 3, 7), "spec.limt", "Server/a", "did you mean limit?")
    assert problems.lines([problem]) == [
        "a.yaml:3:7: Server/a: spec.limt: unknown key",
        "  hint: did you mean limit?",
    ]


def test_an_error_of_several_problems_has_a_line_for_each() -> None:
    class Several(FailedError):
        problems = (Problem("first", subject="Server/a", hint="h"), Problem("second"))

    assert problems.error_lines(Several("x")) == ["vsprov: Server/a: first", "  hint: h", "vsprov: second"]


def test_sarif_places_are_relative_uris() -> None:
    report = problems.to_sarif([Problem("m", Position("./a b/ü.yaml (rendered)", 1, 1))], "1")
    place = report["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "a%20b/%C3%BC.yaml"


@given(
    st.lists(
        st.builds(
            Problem, st.text(), st.none() | st.builds(Position, st.text(), st.integers(1), st.integers(1))
        )
    )
)
def test_every_problem_can_be_shown_in_every_form(found: list[Problem]) -> None:
    from xml.etree import ElementTree

    problems.dump(problems.to_json(found))
    problems.dump(problems.to_sarif(found, "1"))
    ElementTree.fromstring(
        problems.to_junit(found, []).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    )


# -- screens


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
