"""What is shown: plans and problems; data in, text out."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vsprov.errors import FailedError, Position, Problem
from vsprov.plan.plan import Change, PathChange, Plan
from vsprov.plan.steps import Stop
from vsprov.render import plan as plans
from vsprov.render import problems
from vsprov.render.screen import Screen

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


def test_objects_that_are_not_in_the_manifest_are_named_with_what_removes_them() -> None:
    left = ("Server/a", "Volume/b", "Server/c", "Volume/d")
    assert plans.text(Plan((), unlisted=left), PLAIN) == (
        "Nothing to do.\n"
        "Kept, not in the manifest: Server/a, Server/c (--prune removes what no given file declares)\n"
        "Kept, not in the manifest: Volume/b, Volume/d "
        "(--prune --volumes removes empty ones that no given file declares)"
    )


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
        (Change("Server", "a", "update", "none", "stop", steps=(Stop("a", "TERM", 0),)), "stopped"),
        (Change("Server", "a", "update", "none", "stop"), "was not running, and stays so"),
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
