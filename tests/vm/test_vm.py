"""The kernel tests once more, on a machine whose controllers are all on cgroup v2."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.vm import machine

SUITES = ("kernel", "e2e", "attack", "fault")
LINES_SHOWN = 150


def in_the_machine(*command: str, **environment: str) -> tuple[int | None, str, str]:
    """Exit code, output, and the end of what was complained of, of a command run there as root."""
    out, err = io.BytesIO(), io.BytesIO()
    outcome = machine.run(command, environment=environment, out=out, err=err)
    complaints = err.getvalue().decode(errors="replace")
    if outcome.code is None:
        complaints += f"\nthe machine went down:\n{outcome.console}"
    return outcome.code, out.getvalue().decode(errors="replace"), last_lines(complaints)


def last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-LINES_SHOWN:])


def test_every_controller_is_on_cgroup_v2_and_the_state_lies_on_ext4_with_project_quotas() -> None:
    script = (
        "cat /sys/fs/cgroup/cgroup.controllers; "
        "grep -c ' cgroup ' /proc/self/mounts; "
        "findmnt --noheadings --output FSTYPE,OPTIONS --mountpoint /var/tmp --source /dev/vdb; "
        "id -u; exit 42"
    )
    code, said, complaints = in_the_machine("sh", "-c", script)
    assert complaints == ""
    controllers, version_one_mounts, state, user = said.splitlines()
    assert {"cpuset", "cpu", "io", "memory", "hugetlb", "pids"} <= set(controllers.split())
    assert version_one_mounts == "0"
    assert state.split() == ["ext4", "rw,relatime,prjquota"]
    assert user == "0"
    assert code == 42


def test_the_kernel_tests_pass_there_too(capsys: pytest.CaptureFixture[str]) -> None:
    tests = Path(machine.CHECKOUT, "tests")
    files = [path for suite in SUITES for path in sorted((tests / suite).glob("test_*.py"))]
    marked = [str(path.relative_to(machine.CHECKOUT)) for path in files if "vm_subset" in path.read_text()]
    code, said, complaints = in_the_machine(
        *("python", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--tb=short"),
        *("-n", "2", "--dist", "worksteal", "-m", "vm_subset and not slow", *marked),
    )
    assert code == 0, f"{complaints}\n{last_lines(said)}"
    with capsys.disabled():
        print(f"\n  in the emulated machine: {said.splitlines()[-1].strip('= ')}")
