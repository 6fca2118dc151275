"""What a wait for servers is told of: the servers that have changed, and no others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager

import pytest

from tests.lab import SECONDS, Document, Lab, image, pool, server, wait_until
from vsprov.engine.run import lock
from vsprov.engine.servers.watch import ServerWatch
from vsprov.store.instance import Instance

NAMES = ("a", "b", "pooled", "later")
DOCUMENTS: tuple[Document, ...] = (
    image(),
    pool("team", pids={"max": 500}),
    server("a"),
    server("b"),
    server("pooled", quota="team"),
    server("unwatched"),
)


@contextmanager
def watching(lab: Lab, names: Iterable[str] = NAMES) -> Iterator[ServerWatch]:
    """A watch that has looked at all servers."""
    with closing(ServerWatch(Instance(lab.vsprov.name, str(lab.vsprov.root)), names)) as watch:
        for name in names:
            watch.look(name)
        yield watch


def told(watch: ServerWatch, until: Callable[[set[str]], bool]) -> set[str]:
    """The servers that it tells of until a condition holds, as one that waits gets to know them."""
    found: set[str] = set()
    deadline = time.monotonic() + SECONDS
    while not until(found):
        assert time.monotonic() < deadline, found
        names, _ = watch.changed(1.0)
        for name in names:
            watch.look(name)
        found |= set(names)
    return found


CHANGES: dict[str, tuple[Callable[[Lab], object], str, str]] = {
    "a mark": (lambda lab: lab.vsprov("freeze", "a"), "a", "Frozen"),
    "in a pool": (lambda lab: lab.vsprov("freeze", "pooled"), "pooled", "Frozen"),
    "a stop": (lambda lab: lab.vsprov("stop", "b"), "b", "Stopped"),
    "created": (lambda lab: lab.apply(image(), server("later")), "later", "Running"),
    "created in a new pool": (
        lambda lab: lab.apply(image(), pool("new", pids={"max": 500}), server("later", quota="new")),
        "later",
        "Running",
    ),
    "moved": (
        lambda lab: lab.apply(*DOCUMENTS[:2], server("a", quota="team")),
        "a",
        "Running",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_the_server_that_changes_is_looked_at_again(lab: Lab, change: str) -> None:
    happens, name, state = CHANGES[change]
    lab.apply(*DOCUMENTS)
    with watching(lab) as watch:
        before = watch.look(name)[0]
        happens(lab)
        lab.vsprov("freeze", "unwatched")

        def is_there(found: set[str]) -> bool:
            seen, settled = watch.look(name)
            return name in found and seen != before and settled and (seen.state if seen else "") == state

        assert told(watch, is_there) == {name}


def test_a_server_of_an_instance_that_does_not_exist_yet_is_seen_to_start(lab: Lab) -> None:
    with watching(lab, ["a"]) as watch:
        lab.apply(image(), server("a"))

        def runs(found: set[str]) -> bool:
            seen = watch.look("a")[0]
            return "a" in found and seen is not None and seen.state == "Running"

        assert told(watch, runs) == {"a"}
        lab.vsprov("destroy", "--all", "-y")
        assert told(watch, lambda found: "a" in found and watch.look("a")[0] is None) == {"a"}


def test_a_server_that_ends_while_another_command_is_at_work_is_settled_when_that_has_ended(lab: Lab) -> None:
    lab.apply(*DOCUMENTS)
    with watching(lab) as watch:
        with lock.locked(Instance(lab.vsprov.name, str(lab.vsprov.root))):
            lab.end("a")
            wait_until(lambda: lab.processes("a") == [])
            told(watch, lambda found: not watch.look("a")[1])
        assert told(watch, lambda found: "a" in found) == {"a"}
        assert watch.look("a")[1]
