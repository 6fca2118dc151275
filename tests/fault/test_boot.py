"""A boot, a shutdown and hooks that die at some step: the next command finishes what they began."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.e2e.reboot import lose_power
from tests.lab import Document, Lab, image, pool, server, to_yaml
from vsprov.engine.apply.carry_out import FAIL_AFTER

STEPS = (1, 3, 5, 8, 11, 14)
NAMES = ("a", "b", "c")
DOCUMENTS: tuple[Document, ...] = (
    image(),
    pool("team", memory={"max": "256Mi"}),
    server("a", quota="team", boot={"priority": 1}),
    server("b", dependsOn=[{"name": "a"}]),
    server("c", resources={"pids": {"max": 40}}),
)


def dies(lab: Lab, step: int, *words: str, **more: Any) -> bool:
    """Run a command line that is killed after a step; whether it was: it may have fewer steps."""
    done = lab.vsprov(*words, "--parallelism", "1", check=False, env={FAIL_AFTER: str(step)}, **more)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def running(lab: Lab) -> set[str]:
    items = json.loads(lab.vsprov("get", "servers", "-o", "json").stdout)["items"]
    return {item["metadata"]["name"] for item in items if item["status"]["state"] == "Running"}


def test_a_boot_that_died_is_finished_by_the_next(lab: Lab) -> None:
    lab.converge(*DOCUMENTS)
    for step in STEPS:
        lose_power(lab)
        assert dies(lab, step, "boot")
        lab.vsprov("boot")
        assert running(lab) == set(NAMES)
        assert lab.is_settled(*DOCUMENTS)


def test_a_shutdown_that_died_is_finished_by_the_next_and_boot_starts_everything(lab: Lab) -> None:
    lab.converge(*DOCUMENTS)
    for step in (1, 2):
        assert dies(lab, step, "shutdown")
        lab.vsprov("shutdown")
        assert running(lab) == set()
        lab.vsprov("boot")
        assert running(lab) == set(NAMES)
        assert lab.is_settled(*DOCUMENTS)


def test_a_start_with_hooks_that_died_is_undone_by_post_stop_before_it_is_made_again(
    lab: Lab, tmp_path: Path
) -> None:
    """preStart fails if what an earlier one has made is still there."""
    made = tmp_path / "made"
    hooks = {
        "preStart": [{"exec": ["mkdir", str(made)]}],
        "postStart": [{"exec": ["test", "-d", str(made)]}],
        "postStop": [{"exec": ["rmdir", str(made)]}],
    }
    documents = image(), server("a", hooks=hooks)
    step = 0
    while True:
        step += 1
        died = dies(lab, step, "apply", "-y", "-", input=to_yaml(*documents))
        lab.converge(*documents)
        assert made.is_dir()
        lab.vsprov("destroy", "-y", "-", input=to_yaml(*documents))
        assert not made.exists()
        if not died:
            break
    assert step > 8
