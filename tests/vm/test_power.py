"""What lies on disk outlives a reboot and a power cut at any moment, and the next command needs no help.

One machine lives through all of it: each boot goes on with the disk that the one before left. A test boots
whatever it needs that no test before it has booted.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import preloaded
from tests.vm import machine

# The parts of tests/vm/power.py that each boot runs, and whether the power is cut in the end.
BOOTS = (
    (("make", "shut_down"), False),
    (("boot_after_a_reboot", "cut_the_power_while_servers_are_made"), True),
    (("finish_making", "cut_the_power_while_servers_are_removed"), True),
    (("finish_removing",), False),
)


CUT = "sysrq: Resetting"  # what the kernel says then


@dataclass(slots=True)
class Life:
    """A machine's disk, and how the boots so far went: "" is well, anything else what went wrong."""

    disk: Path
    told: list[str] = field(default_factory=list)

    def boots(self, number: int) -> str:
        """What went wrong in the boot of this number, the first is 1, or in one before it."""
        while len(self.told) < number and not any(self.told):
            parts, is_cut = BOOTS[len(self.told)]
            self.told.append(self._boot(parts, is_cut))
        return "\n".join(self.told).strip()

    def _boot(self, parts: tuple[str, ...], is_cut: bool) -> str:
        out, err = io.BytesIO(), io.BytesIO()
        command = ("python", "-m", "tests.vm.power", *parts)
        outcome = machine.run(
            command, state_disk=self.disk, environment={preloaded.REAL: "1"}, timeout=600, out=out, err=err
        )
        if outcome.code == (None if is_cut else 0) and (CUT in outcome.console) == is_cut:
            return ""
        said = (out.getvalue() + err.getvalue()).decode(errors="replace")
        console = f"\nthe machine went down:\n{outcome.console}" if outcome.code is None else ""
        return f"{' '.join(command)}: exit code {outcome.code}\n{said}{console}"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    disk = tmp_path_factory.mktemp("power") / "disk"
    machine.make_state_disk(disk)
    return Life(disk)


def test_after_a_reboot_boot_starts_every_server_with_what_it_wrote_its_limits_and_addresses(
    life: Life,
) -> None:
    assert life.boots(2) == ""


def test_after_a_power_cut_boot_starts_what_was_made_and_the_next_apply_finishes_the_rest(
    life: Life,
) -> None:
    assert life.boots(3) == ""


def test_a_destroy_whose_power_was_cut_is_finished_by_the_next_and_leaves_nothing(life: Life) -> None:
    assert life.boots(4) == ""
