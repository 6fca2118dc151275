"""An agent plans, applies and removes through the engine, without the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from tests.instance import Instance

AGENT = """
import json, os, sys
from vsprov.engine.apply import converge
from vsprov.engine.apply import command
from vsprov.engine.apply.report import Silent
from vsprov.engine.desired import wanted
from vsprov.engine.desired.inputs import Inputs
from vsprov.store.instance import Instance

instance = Instance(os.environ["VSPROV_INSTANCE"], sys.argv[1])
given = Inputs((sys.argv[2],))

def actions(desired):
    plan = converge.propose(instance, desired.wanted).plan
    return {change.address: change.action for change in plan.objects}

first = wanted.to_apply(instance, given, labels="tier=web")
told = {"set": first.set_name, "planned": actions(first)}
applied = command.apply(instance, first.wanted, Silent())
told["errors"] = [str(error) for error in applied.errors.values()]
told["left"] = actions(first)
gone = wanted.to_remove(instance, given)
told["to_remove"] = actions(gone)
command.apply(instance, gone.wanted, Silent())
told["left_to_remove"] = actions(gone)
told["loaded"] = [name for name in sys.modules if name.partition(".")[0] in ("click", "rich")]
told["loaded"] += [name for name in sys.modules if name.startswith(("vsprov.cli", "vsprov.render"))]
print(json.dumps(told))
"""
MANIFEST = """
apiVersion: vsprov/v1
kind: Image
metadata: {name: host}
spec: {source: {host: {}}}
---
apiVersion: vsprov/v1
kind: Server
metadata: {name: web1, labels: {tier: web}}
spec: {image: host, init: {command: [/bin/sleep, infinity]}}
---
apiVersion: vsprov/v1
kind: Server
metadata: {name: db1}
spec: {image: host, init: {command: [/bin/sleep, infinity]}}
"""


def test_a_program_plans_and_applies_without_loading_the_command_line(
    instance: Instance, tmp_path: Path
) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    (tmp_path / "vsprov.yaml").write_text("set: shop\n")
    done = subprocess.run(
        [sys.executable, "-c", AGENT, str(instance.root), str(tmp_path / "m.yaml")],
        capture_output=True,
        text=True,
        env=instance.environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told == {
        "set": "shop",
        "planned": {"Image/host": "create", "Server/web1": "create"},
        "errors": [],
        "left": {},
        "to_remove": {"Image/host": "delete", "Server/web1": "delete"},
        "left_to_remove": {},
        "loaded": [],
    }


def test_two_checkouts_of_one_repository_plan_nothing(vsprov: Instance, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "servers").mkdir(parents=True)
    (first / "src").mkdir()
    (first / "src/file").write_text("one\n")
    (first / "vsprov.yaml").write_text("set: shop\n")
    with tarfile.open(first / "src/base.tar", "w") as archive:
        archive.add(first / "src/file", "file")
    (first / "servers/m.yaml").write_text(CHECKOUT)
    assert "Done: 3 added" in vsprov("apply", "-y", first / "servers").stdout
    shutil.copytree(first, second)
    shutil.rmtree(first)
    for here, path in ((tmp_path, second / "servers"), (second, Path("servers/m.yaml")), (second, Path("."))):
        flags = ("-R", "--prune", "--detailed-exitcode")
        assert "Nothing to do: 3 images match" in vsprov("plan", path, *flags, cwd=here).stdout
        assert vsprov("diff", path, "-R", cwd=here).stdout == ""
    (second / "src/file").write_text("two\n")
    changed = vsprov("plan", second / "servers").stdout
    assert "~ Image/files" in changed and "~ Image/built" in changed and "Image/packed" not in changed


CHECKOUT = """
apiVersion: vsprov/v1
kind: Image
metadata: {name: files}
spec: {source: {directory: ../src}}
---
apiVersion: vsprov/v1
kind: Image
metadata: {name: packed}
spec: {source: {tar: {path: ../src/base.tar}}}
---
apiVersion: vsprov/v1
kind: Image
metadata: {name: built}
spec: {source: {build: {from: packed, steps: [{copy: {source: ../src/file, target: /copied}}]}}}
"""
