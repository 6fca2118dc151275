"""Builds that end early: vsprov is killed or interrupted in a step, and what the next apply makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import leaks
from tests.e2e.builds import builds, built, is_whole, run, steps_done, store, trees
from tests.lab import Document, Lab, server, to_yaml, wait_until
from vsprov.store import images

FIRST = run("echo first > /srv/first")
LONG = run("mkfifo /srv/pipe; sleep 98765 & cat /srv/pipe")


def building(lab: Lab, *documents: Document) -> subprocess.Popen[str]:
    """An apply that is in the middle of the step `LONG`."""
    apply = subprocess.Popen(
        lab.vsprov.command("apply", "-y", "-"), text=True, env=lab.vsprov.environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert apply.stdin is not None
    apply.stdin.write(to_yaml(*documents))
    apply.stdin.close()
    apply.stdin = None
    begun = Path(store(lab).layers)
    wait_until(lambda: bool(list(begun.glob(".making-*/tree/srv/pipe"))) and bool(sleepers(lab)))
    return apply


def mended(lab: Lab, box: Document, *, swept: bool) -> None:
    """The next apply goes on from the first step, and leaves nothing of the other."""
    done = lab.converge(box, built(FIRST, run("echo second > /srv/second")), server("a", image="built"))
    assert steps_done(done) == [2]
    assert (".build-built, left by an interrupted apply" in done.stderr) == swept
    assert lab.shell("a", "cat /srv/first /srv/second; ls /srv") == "first\nsecond\nfirst\nold\nsecond\n"
    assert not sleepers(lab)
    is_whole(lab)


def sleepers(lab: Lab) -> list[int]:
    """What the step has started; not its shell, whose words hold the same number."""
    found = leaks.processes(lab.vsprov.name)
    return [pid for pid, words in found.items() if words.strip() == "sleep 98765"]


@pytest.mark.vm_subset
@pytest.mark.parametrize("alone", [True, False])
def test_a_build_whose_vsprov_is_killed_is_swept_by_the_next_apply(
    lab: Lab, box: Document, alone: bool
) -> None:
    others = () if alone else (server("other", image="box"),)
    lab.apply(box, *others)
    apply = building(lab, box, built(FIRST, LONG), *others)
    assert len(builds(lab)) == 1 and sleepers(lab)
    apply.kill()
    apply.communicate()
    assert "built" not in images.observe(store(lab))
    if not alone:
        assert lab.init("other")
    mended(lab, box, swept=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_build_that_is_interrupted_ends_at_once_and_leaves_only_its_finished_steps(
    lab: Lab, box: Document, number: int, code: int
) -> None:
    apply = building(lab, box, built(FIRST, LONG))
    apply.send_signal(number)
    _, said = apply.communicate(timeout=60)
    assert apply.returncode == code
    assert "Traceback" not in said
    wait_until(lambda: not sleepers(lab))
    assert "built" not in images.observe(store(lab))
    mended(lab, box, swept=False)


def test_what_a_killed_build_left_goes_with_a_destroy_as_well(lab: Lab, box: Document) -> None:
    apply = building(lab, box, built(FIRST, LONG))
    apply.kill()
    apply.communicate()
    lab.vsprov("destroy", "--all", "-y")
    wait_until(lambda: lab.vsprov.left() == [])


def test_a_killed_spawner_fails_the_step_and_not_the_store(lab: Lab, box: Document) -> None:
    apply = building(lab, box, built(FIRST, LONG))
    (spawner,) = [pid for pid in children(apply.pid)]
    os.kill(spawner, signal.SIGKILL)
    _, said = apply.communicate(timeout=60)
    assert apply.returncode == 1, said
    assert "Traceback" not in said and "Image/built" in said
    wait_until(lambda: not sleepers(lab))
    mended(lab, box, swept=False)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_source_that_changes_after_the_plan_fails_its_step_and_is_copied_by_the_next_apply(
    lab: Lab, box: Document, tmp_path: Path
) -> None:
    (tmp_path / "conf").write_text("one")
    steps = [
        run("mkfifo /srv/pipe; sleep 98765 || true"),
        {"copy": {"source": str(tmp_path / "conf"), "target": "/etc/conf"}},
    ]
    apply = building(lab, box, built(*steps))
    (tmp_path / "conf").write_text("two")
    (sleeper,) = sleepers(lab)
    os.kill(sleeper, signal.SIGTERM)
    _, said = apply.communicate(timeout=60)
    assert apply.returncode == 1
    assert f"step 2: copy {tmp_path}/conf to /etc/conf: it changed after it was checked" in said
    assert steps_done(lab.converge(box, built(*steps))) == [2]
    assert (trees(lab)[-1] / "etc/conf").read_text() == "two"
    is_whole(lab)


def test_images_built_at_once_from_the_same_steps_share_their_layers(lab: Lab, box: Document) -> None:
    steps = [FIRST, run("echo 2 > /srv/2")]
    names = [f"i{n}" for n in range(5)]
    lab.converge(box, *(built(*steps, name=name) for name in names))
    assert len({tuple(trees(lab, name)) for name in names}) == 1
    is_whole(lab)
