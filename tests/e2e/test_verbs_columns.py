"""get: the columns and the order of its tables. show: saved plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.verbs import HOST
from tests.lab import Lab, server, to_yaml


@pytest.fixture(scope="module")
def three(shared_lab: Lab) -> Lab:
    shared_lab.apply(
        HOST,
        server("a", resources={"pids": {"max": 30}}, labels={"tier": "web"}),
        server("b", resources={"pids": {"max": 100}}, annotations={"example.com/note": "first"}),
        server("c", state="Stopped", labels={"tier": "db", "zone": "x"}),
    )
    return shared_lab


def rows(lab: Lab, *words: str) -> list[list[str]]:
    return [line.split() for line in lab.vsprov("get", "servers", *words).stdout.splitlines()]


def names(lab: Lab, field: str) -> list[str]:
    return [row[0] for row in rows(lab, "--columns", "NAME", "--sort-by", field)[1:]]


def test_columns_are_titles_of_the_wide_table_or_paths(three: Lab) -> None:
    note = "metadata.annotations.example.com/note"
    found = rows(three, "--columns", f"name,state,spec.resources.pids.max,{note}")
    assert found == [
        ["NAME", "STATE", "spec.resources.pids.max", note],
        ["a", "Running", "30", "-"],
        ["b", "Running", "100", "first"],
        ["c", "Stopped", "-", "-"],
    ]


def test_servers_are_sorted_by_a_field_and_those_without_it_come_last(three: Lab) -> None:
    assert names(three, "name") == ["a", "b", "c"]
    assert names(three, "-name") == ["c", "b", "a"]
    assert names(three, "spec.resources.pids.max") == ["a", "b", "c"]
    assert names(three, "-spec.resources.pids.max") == ["b", "a", "c"]
    assert names(three, "-state")[0] == "c"
    ordered = json.loads(three.vsprov("get", "servers", "-o", "json", "--sort-by", "-name").stdout)["items"]
    assert [one["metadata"]["name"] for one in ordered] == ["c", "b", "a"]


def test_labels_are_a_column(three: Lab) -> None:
    found = rows(three, "--show-labels", "--columns", "NAME")
    assert found == [["NAME", "LABELS"], ["a", "tier=web"], ["b", "-"], ["c", "tier=db,zone=x"]]
    assert rows(three, "--show-labels")[0][-1] == "LABELS"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["servers", "--columns", "NAM"], "servers have no such column; did you mean 'NAME'?"),
        (["servers", "--sort-by", "memry"], "--sort-by memry: no such field; did you mean 'memory'?"),
        (["--columns", "NAME"], "takes a single kind"),
        (["servers", "-o", "json", "--show-labels"], "are for tables"),
    ],
)
def test_unknown_columns_and_fields_are_refused(three: Lab, words: list[str], said: str) -> None:
    done = three.vsprov("get", *words, check=False)
    assert done.returncode == 64 and said in done.stderr


def test_a_saved_plan_is_shown_as_it_was_made(three: Lab, tmp_path: Path) -> None:
    manifest, plan = tmp_path / "a.yaml", tmp_path / "a.plan"
    changed = server("a", resources={"memory": {"max": "64Mi"}}, labels={"tier": "web"})
    manifest.write_text(to_yaml(HOST, changed, server("new")))
    for verbose in ([], ["-v"]):
        made = three.vsprov("plan", str(manifest), "--out", str(plan), *verbose).stdout
        shown = three.vsprov("show", str(plan), *verbose).stdout
        head, empty, rest = shown.split("\n", 2)
        assert head.startswith("Plan for set default of instance") and empty == ""
        if verbose:
            assert "set mark 'applied'" in rest
        else:
            assert rest == made and "spec.resources.memory.max: default → 64Mi (live)" in rest
    as_json = json.loads(three.vsprov("show", str(plan), "-o", "json").stdout)
    now = json.loads(three.vsprov("plan", str(manifest), "-o", "json").stdout)
    assert as_json["resource_changes"] == now["resource_changes"]
    assert as_json.keys() == now.keys()


def test_what_is_no_saved_plan_is_refused(three: Lab, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(to_yaml(HOST))
    for path, said in ((tmp_path / "a.yaml", "not a saved plan"), (tmp_path / "b", "not found")):
        done = three.vsprov("show", str(path), check=False)
        assert done.returncode == 64 and said in done.stderr
