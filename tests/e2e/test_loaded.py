"""What commands load if nothing has to be changed: their start takes longer than all they do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.instance import Instance

# Needed only to report errors, to change something, or on a terminal.
FORBIDDEN = (
    "jsonschema referencing attr jinja2 rich requests urllib3 http email ssl asyncio shutil "
    "vsprov.engine.apply.carry_out vsprov.engine.steps vsprov.engine.guests vsprov.engine.networks "
    "vsprov.engine.run.spawn vsprov.engine.destroy vsprov.engine.show "
    "vsprov.kernel.links vsprov.kernel.firewall vsprov.plan.network.changes vsprov.plan.network.desired "
    "vsprov.store.registry vsprov.store.unpack vsprov.manifest.template vsprov.manifest.other_tools"
).split()
MANIFEST = """
apiVersion: vsprov/v1
kind: Image
metadata: {name: host}
spec: {source: {host: {}}}
---
apiVersion: vsprov/v1
kind: Server
metadata: {name: web1}
spec: {image: host, init: {command: [/bin/sleep, infinity]}, resources: {memory: {max: 64Mi}}}
"""


OF_PLANS = (
    "yaml shutil vsprov.manifest vsprov.plan.kinds vsprov.plan.steps vsprov.plan.builder "
    "vsprov.engine.run.context"
).split()


def loaded(vsprov: Instance, *words: str | Path) -> set[str]:
    """The modules that a command line loads."""
    program, *rest = vsprov.command(*words)
    done = subprocess.run(
        [program, "-X", "importtime", *rest], env=vsprov.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-500:]
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}


@pytest.mark.parametrize("words", ["apply -y", "plan", "exec web1 -- true"])
def test_a_command_that_changes_nothing_loads_only_what_it_needs(
    vsprov: Instance, tmp_path: Path, words: str
) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text(MANIFEST)
    vsprov("apply", "-y", manifest)
    if words.startswith("exec"):
        found = loaded(vsprov, *words.split())
        assert found & {*OF_PLANS, "jsonschema", "jinja2", "rich", "requests"} == set()
    else:
        assert vsprov(*words.split(), manifest).stdout.startswith("Nothing to do")
        found = loaded(vsprov, *words.split(), manifest)
        assert found & set(FORBIDDEN) == set()
    assert "vsprov.engine.look.observe" in found
