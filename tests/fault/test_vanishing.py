"""Groups that appear and vanish while they are looked at: what is gone is not there, and no error."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import leaks
from tests.conftest import Instance as Own
from tests.fault.faults import Apply
from tests.lab import SECONDS, Lab, image, server
from vsprov.engine.images import builds
from vsprov.engine.look import observe, situation
from vsprov.engine.run.context import ApplyContext
from vsprov.engine.show import documents, processes
from vsprov.kernel import cgroup
from vsprov.plan.steps import MarkInit, Release, Spawn, Step
from vsprov.store.disk import marks
from vsprov.store.instance import Instance


@pytest.fixture
def flickering(instance: Own) -> Iterator[Instance]:
    """An instance of which another process makes and removes a server and a pool, over and over."""
    made = Instance(instance.name, str(instance.root))
    hierarchies = cgroup.find()
    tops = {hierarchies.directory(name, made.name) for name in ("", *hierarchies.v1)}
    for top in tops:
        os.mkdir(top)
        marks.write_mark(top, marks.OWNER, f"host {made.name}/")
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                _flicker(tops, made.name)
        except BaseException as error:  # pytest must not run on in the child
            print(error, file=sys.stderr)
        finally:
            os._exit(1)
    try:
        yield made
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)  # it did not fail
    finally:
        os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        for group in leaks.groups(made.name):
            _remove(group)


def _flicker(tops: set[str], name: str) -> None:
    below = (("pool", "pool"), ("pool/in", "server"), ("web", "server"))
    paths = [(f"{top}/{group}", role) for top in tops for group, role in below]
    for path, role in paths:
        os.mkdir(path)
        marks.write_mark(path, marks.OWNER, f"{role} {name}/default")
    for path, _ in reversed(paths):
        with suppress(FileNotFoundError):  # `cgroup.end` has removed it
            os.rmdir(path)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            assert time.monotonic() < deadline


def _look(instance: Instance) -> None:
    situation.look(instance)


def _find(instance: Instance) -> None:
    now = situation.look(instance)
    for name in ("web", "in"):
        observe.find(instance, now.hierarchies, now.machine, name)


def _processes(instance: Instance) -> None:
    processes.listing(instance)
    processes.servers(instance)


def _documents(instance: Instance) -> None:
    now = documents.look(instance)
    for kind in ("Server", "Quota"):
        for name in documents.names(kind, now):
            documents.document(kind, name, now)


def _kill(instance: Instance) -> None:
    home = cgroup.find().directory("", f"{instance.name}/web")
    cgroup.kill(home)
    assert list(cgroup.kill_all(home)) == []


def _sweep(instance: Instance) -> None:
    assert builds.sweep(cgroup.find().directory("", instance.name)) == []


@pytest.mark.parametrize(
    ("look", "times"),
    [(_look, 100), (_find, 100), (_processes, 300), (_documents, 100), (_kill, 4000), (_sweep, 300)],
)
def test_a_group_that_vanishes_while_it_is_looked_at_is_no_error(
    flickering: Instance, look: Callable[[Instance], None], times: int
) -> None:
    for _ in range(times):
        look(flickering)


def test_a_server_that_is_being_started_does_not_run_yet(lab: Lab) -> None:
    """Its init may still have the root of the host."""

    def seen(context: ApplyContext, step: Step) -> str:
        if not isinstance(step, Spawn | MarkInit | Release):
            return ""
        now = situation.look(context.instance)
        found = observe.find(context.instance, now.hierarchies, now.machine, "a")
        assert found
        return f"{type(step).__name__} {found.state} {found.populated}"

    steps = Apply(lab, (image(), server("a"))).told(seen)
    assert steps == ["Spawn Stopped True", "MarkInit Running True", "Release Running True"]
