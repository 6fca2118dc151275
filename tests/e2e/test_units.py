"""The units in packaging/: systemd accepts them, and their command lines start and stop the servers."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.verbs import HOST, web
from tests.features import requires
from tests.instance import CHECKOUT
from tests.lab import Lab

UNITS = sorted((CHECKOUT / "packaging/systemd").iterdir())
INIT_SCRIPT = CHECKOUT / "packaging/sysvinit/vsprov"
PROGRAM = "/usr/local/bin/vsprov"


def lines_of(unit: Path) -> list[list[str]]:
    """The command lines of a unit without the program."""
    found = re.findall(r"^Exec\w+=-?(.*)$", unit.read_text(), re.MULTILINE)
    words = [shlex.split(line) for line in found]
    assert {each[0] for each in words} == {PROGRAM}
    return [each[1:] for each in words]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    requires("systemd_analyze")
    own = tmp_path / unit.name.replace("@", "@lab")
    own.write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(own)],
        capture_output=True,
        text=True,
    )
    told = [line for line in done.stderr.splitlines() if unit.name.partition(".")[0].strip("@") in line]
    assert (done.returncode, told) == (0, [])


def test_the_template_differs_from_the_unit_only_in_the_instance() -> None:
    unit, template = (
        (CHECKOUT / "packaging/systemd" / name).read_text() for name in ("vsprov.service", "vsprov@.service")
    )
    template = template.replace("--instance %i ", "").replace("/var/lib/%i", "/var/lib/vsprov")
    assert template.replace("of the instance %i of", "of") == unit


def test_the_command_lines_of_the_unit_stop_the_servers_and_start_them_again(lab: Lab) -> None:
    (start, stop) = lines_of(CHECKOUT / "packaging/systemd/vsprov.service")
    lab.converge(HOST, web())
    lab.vsprov(*stop)
    assert lab.processes("web1") == []
    lab.vsprov(*start)
    assert lab.is_settled(HOST, web())


def test_the_init_script_stops_the_servers_and_starts_them_again(lab: Lab, tmp_path: Path) -> None:
    wrapper = tmp_path / "vsprov"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m vsprov "$@"\n')
    wrapper.chmod(0o755)

    def script(action: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "VSPROV": str(wrapper),
            "INSTANCES": lab.vsprov.name,
            "VSPROV_ROOT": str(lab.vsprov.root),
        }
        environment = lab.vsprov.environment | settings
        return subprocess.run([INIT_SCRIPT, action], env=environment, capture_output=True, text=True)

    lab.converge(HOST, web())
    assert script("stop").returncode == 0
    assert lab.processes("web1") == []
    assert script("start").returncode == 0
    assert "web1" in script("status").stdout
    assert lab.is_settled(HOST, web())
    assert script("dance").returncode == 2
