"""vsprov dies at every single step of making, changing and removing; what comes next mends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.effort import worth_trying
from tests.fault.crashes import Base, every_step, with_bystander
from tests.fault.faults import KILLED, Apply
from tests.lab import Document, image, pool, server, to_yaml

BEFORE: tuple[Document, ...] = (
    image(),
    pool("team", cpu={"limit": "1500m"}, memory={"max": "128Mi"}),
    server("live", quota="team", resources={"memory": {"max": "32Mi"}, "pids": {"max": 40}}),
    server("restarted", dependsOn=[{"name": "live"}]),
)
AFTER: tuple[Document, ...] = (
    image(),
    pool("team", cpu={"limit": "1000m"}, memory={"max": "96Mi"}, pids={"max": 90}),
    server("live", quota="team", hostname="renamed", labels={"a": "b"},
           resources={"memory": {"max": "48Mi"}, "cpu": {"limit": "500m", "burst": "5ms"}}),
    server("restarted", "sleep", "123456"),
    server("added", quota="team", ephemeral=True),
)  # fmt: skip
RECREATED = (*AFTER[:3], server("restarted", "sleep", "123456", ephemeral=True), AFTER[4])


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    with with_bystander() as base:
        yield base


@pytest.mark.slow
def test_a_server_that_died_while_being_made_is_finished_by_the_next_apply(base: Base) -> None:
    made = base.make(BEFORE)

    def mend(step: int) -> None:
        assert Apply(base.lab, BEFORE).run() == 0, f"after step {step}"
        base.holds(made, step)

    steps = every_step(base, Apply(base.lab, BEFORE), lambda: base.remove(BEFORE), mend)
    assert steps > 20
    base.remove(BEFORE)


def test_a_server_that_died_while_being_made_can_be_removed(base: Base) -> None:
    def mend(step: int) -> None:
        assert Apply(base.lab, BEFORE, remove=True).run() == 0, f"after step {step}"
        base.holds(base.empty, step)

    assert every_step(base, Apply(base.lab, BEFORE), lambda: None, mend) > 20
    base.remove(BEFORE)


@pytest.mark.slow
@pytest.mark.parametrize("after", [AFTER, RECREATED], ids=["live and restart", "recreate"])
def test_a_change_that_died_is_finished_by_the_next_apply(base: Base, after: tuple[Document, ...]) -> None:
    changed = base.make(after)
    base.remove(after)

    def mend(step: int) -> None:
        assert Apply(base.lab, after).run() == 0, f"after step {step}"
        base.holds(changed, step)
        base.remove(after)

    assert every_step(base, Apply(base.lab, after), lambda: base.make(BEFORE), mend) > 10
    base.remove(after)


@pytest.mark.slow
def test_a_change_that_died_can_be_taken_back(base: Base) -> None:
    before = base.make(BEFORE)

    def mend(step: int) -> None:
        assert Apply(base.lab, (AFTER[4],), remove=True).run() == 0
        assert Apply(base.lab, BEFORE).run() == 0, f"after step {step}"
        base.holds(before, step)

    def prepare() -> None:
        assert Apply(base.lab, (AFTER[4],), remove=True).run() == 0
        base.make(BEFORE)

    assert every_step(base, Apply(base.lab, AFTER), prepare, mend) > 10
    base.remove(AFTER)


def test_a_removal_that_died_is_finished_by_the_next(base: Base) -> None:
    def mend(step: int) -> None:
        assert Apply(base.lab, BEFORE, remove=True).run() == 0, f"after step {step}"
        base.holds(base.empty, step)

    change = Apply(base.lab, BEFORE, remove=True)
    assert every_step(base, change, lambda: base.make(BEFORE), mend) >= 5


def test_a_removal_that_died_can_be_taken_back(base: Base) -> None:
    made = base.make(BEFORE)

    def mend(step: int) -> None:
        assert Apply(base.lab, BEFORE).run() == 0, f"after step {step}"
        base.holds(made, step)

    change = Apply(base.lab, BEFORE, remove=True)
    assert every_step(base, change, lambda: base.make(BEFORE), mend) >= 5
    base.remove(BEFORE)


def test_an_apply_whose_spawner_is_killed_fails_and_the_next_one_mends_it(base: Base) -> None:
    made = base.make(BEFORE)
    base.remove(BEFORE)
    steps = Apply(base.lab, BEFORE).steps()
    base.remove(BEFORE)
    assert len(steps) > 20
    for step in worth_trying(steps):
        assert Apply(base.lab, BEFORE).loses_its_spawner_after(step)
        assert base.lab.init("bystander") == base.bystander
        assert Apply(base.lab, BEFORE).run() == 0, f"after step {step}"
        base.holds(made, step)
        base.remove(BEFORE)


def test_the_command_itself_can_be_killed(base: Base) -> None:
    lab = base.lab
    base.remove(BEFORE)  # the tests before this one differ when the file is spread over several workers
    done = lab.apply(*BEFORE, check=False, env={"VSPROV_FAIL_AFTER": "25"})
    assert done.returncode == KILLED
    lab.converge(*BEFORE)
    lab.vsprov("destroy", "-y", "-", input=to_yaml(*BEFORE))
    base.holds(base.empty, 25)


def test_a_group_that_was_made_but_not_yet_marked_is_swept_away(base: Base) -> None:
    """mkdir and the mark are two system calls; the intent file tells such a group from a stranger's."""
    group = base.lab.group("live")
    group.mkdir()
    intent = base.lab.vsprov.run / "intent"
    intent.write_text(f"{base.lab.vsprov.name}/live")
    assert Apply(base.lab, (image(), server("live"))).run() == 0
    assert not intent.exists()
    base.remove((image(), server("live")))


def test_an_apply_says_what_it_swept_away(base: Base) -> None:
    group = base.lab.group("leftover")
    group.mkdir()
    (base.lab.vsprov.run / "intent").write_text(f"{base.lab.vsprov.name}/leftover")
    done = base.lab.apply(image())
    assert f"removed {group}, left by an interrupted apply" in done.stderr
    assert not Path(group).exists()
    base.remove((image(),))
