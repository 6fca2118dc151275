"""A new kind and a new live key are registered and nothing else: see `extension`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.instance import CHECKOUT
from tests.lab import Lab, image, server, to_yaml

NOTE = {"apiVersion": "vsprov/v1", "kind": "Note", "metadata": {"name": "todo"}, "spec": {"text": "water"}}


def extended(lab: Lab, *words: str, input: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command line with the extension."""
    given = ["--instance", lab.vsprov.name, "--root", str(lab.vsprov.root)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.extension", *given, *words],
        input=input,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env=lab.vsprov.environment,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.mark.e2e
def test_a_registered_kind_is_validated_planned_applied_shown_and_removed(lab: Lab) -> None:
    note = to_yaml(NOTE)
    assert extended(lab, "validate", "-", input=note).stdout == "Valid: 1 note.\n"
    long = to_yaml({**NOTE, "spec": {"text": "x" * 101, "txet": "y"}})
    wrong = extended(lab, "validate", "-", input=long, check=False)
    assert wrong.returncode == 65
    assert "Note/todo: spec.text: " in wrong.stderr and "did you mean 'text'?" in wrong.stderr
    planned = json.loads(extended(lab, "plan", "-", "-o", "json", input=note).stdout)
    assert [one["address"] for one in planned["resource_changes"]] == ["Note/todo"]
    assert planned["resource_changes"][0]["steps"] == [
        {"step": "WriteNote", "name": "todo", "owner": f"{lab.vsprov.name}/default", "text": "water"}
    ]
    extended(lab, "apply", "-y", "-", input=note)
    assert extended(lab, "plan", "-", input=note).stdout == "Nothing to do: 1 note matches the manifest.\n"
    assert extended(lab, "get", "notes").stdout == "NAME  TEXT\ntodo  water\n"
    shown = json.loads(extended(lab, "get", "note", "todo", "-o", "json").stdout)
    assert (shown["spec"], shown["status"]) == ({"text": "water"}, {"set": "default"})
    changed = to_yaml({**NOTE, "spec": {"text": "feed"}})
    assert "spec.text: water → feed" in extended(lab, "apply", "-y", "-", input=changed).stdout.replace(
        "->", "→"
    )
    assert "-  text: feed" in extended(lab, "diff", "-", input=note, check=False).stdout
    assert extended(lab, "get", "nots", check=False).returncode == 64
    extended(lab, "destroy", "--all", "-y")
    assert not Path(lab.vsprov.root / "notes").exists()


@pytest.mark.e2e
def test_a_registered_live_key_is_changed_in_the_running_server_and_drift_is_repaired(lab: Lab) -> None:
    bare, scored = to_yaml(image(), server("a")), to_yaml(image(), server("a", oomScoreAdj=100))
    wrong = extended(lab, "validate", "-", input=to_yaml(image(), server("a", oomScoreAdj=1001)), check=False)
    assert wrong.returncode == 65 and "spec.oomScoreAdj" in wrong.stderr
    extended(lab, "apply", "-y", "-", input=bare)
    init = lab.init("a")
    score = Path(f"/proc/{init.pid}/oom_score_adj")
    assert score.read_text() == "0\n"
    planned = json.loads(extended(lab, "plan", "-", "-o", "json", input=scored).stdout)
    assert [(one["path"], one["disruption"]) for one in planned["resource_changes"][0]["paths"]] == [
        ("/spec/oomScoreAdj", "live")
    ]
    extended(lab, "apply", "-y", "-", input=scored)
    assert (lab.init("a"), score.read_text()) == (init, "100\n")
    score.write_text("7")
    shown = json.loads(extended(lab, "get", "server", "a", "-o", "json").stdout)
    assert shown["spec"]["oomScoreAdj"] == 7
    assert "oomScoreAdj: 7 " in extended(lab, "plan", "-", input=scored).stdout
    extended(lab, "apply", "-y", "-", input=scored)
    assert (lab.init("a"), score.read_text()) == (init, "100\n")
    extended(lab, "destroy", "--all", "-y")


def test_the_reference_and_the_schemas_hold_what_is_registered() -> None:
    text = (
        "import tests.e2e.extension\n"
        "from vsprov.manifest import reference, schema\n"
        "print(reference.to_markdown())\n"
        "print(sorted(schema.published()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, cwd=CHECKOUT, check=True
    )
    assert "\n## Note\n\nA text to keep in mind. The keys of its `spec`:\n" in done.stdout
    assert "| `text` | text | required | What to keep in mind. |\n" in done.stdout
    assert "| `oomScoreAdj` | number | `0` | live | Preference of the OOM killer. |\n" in done.stdout
    assert "'note.json'" in done.stdout


@pytest.mark.parametrize(
    "module, registry",
    [
        ("vsprov.plan.kinds.planner", "PLANNERS"),
        ("vsprov.engine.kinds.view", "VIEWS"),
        ("vsprov.render.tables", "TABLES"),
    ],
)
def test_a_kind_without_a_row_is_refused(module: str, registry: str) -> None:
    text = (
        "from vsprov.model.objects import KINDS, ObjectKind, require_rows\n"
        "import vsprov.plan.kinds, vsprov.engine.kinds, vsprov.render.tables\n"
        f"import {module} as module\n"
        'KINDS["Note"] = ObjectKind("Note", object, "A text.")\n'
        f"require_rows(module.{registry}, module.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 1 and done.stderr.strip().endswith("Note")
    assert "TypeError: no " in done.stderr
