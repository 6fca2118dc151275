"""The order in which changes are carried out, and what the failure of one means for others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from vsprov.engine.run.schedule import Changed, Job, Loop, Skipped, Work
from vsprov.errors import FailedError, VsprovError


def test_a_change_that_requires_a_failed_one_is_skipped_and_one_that_follows_it_is_not() -> None:
    done: list[str] = []
    errors: dict[str, VsprovError] = {}

    def work(name: str, fails: bool = False) -> Callable[[], Work]:
        def run() -> Work:
            done.append(name)
            if fails:
                raise FailedError("no")
            yield from ()

        return run

    works: dict[str, Job] = {
        "last": (["follows"], ["requires"], work("last")),
        "requires": (["fails"], [], work("requires")),
        "follows": ([], ["fails", "unknown"], work("follows")),
        "fails": ([], [], work("fails", fails=True)),
    }

    def end(key: str, error: VsprovError | None) -> None:
        if error:
            errors[key] = error

    Loop(lambda: None, 2, lambda event: None).run(works, end)
    assert done == ["fails", "follows", "last"]
    assert {key: type(error) for key, error in errors.items()} == {"fails": FailedError, "requires": Skipped}


class Bell:
    """A watcher that has always seen the same changes; `rings` are their keys."""

    def __init__(self, *rings: str) -> None:
        self.rings = rings
        self.fd = os.eventfd(1)

    def fileno(self) -> int:
        return self.fd

    def changed(self) -> Iterable[str]:
        os.eventfd_read(self.fd)
        return self.rings


def test_works_that_only_wait_are_woken_by_their_keys_and_leave_room_for_others() -> None:
    answers: dict[str, Any] = {}
    order: list[str] = []

    def waits(key: str, seconds: float) -> Callable[[], Work]:
        def run() -> Work:
            answers[key] = yield Changed(key, seconds)
            order.append(key)

        return run

    def work() -> Work:
        order.append("work")
        yield from ()

    bell = Bell("rung", "nobody's")
    works: dict[str, Job] = {
        "rung": ([], [], waits("rung", 60)),
        "late": ([], [], waits("late", 0.05)),
        "work": ([], [], work),
        "after": (["rung", "late"], [], work),
    }
    try:
        Loop(lambda: None, 1, lambda event: None, bell).run(works, lambda *_: None, {"rung", "late"})
    finally:
        os.close(bell.fd)
    assert order == ["work", "rung", "late", "work"]
    assert answers == {"rung": True, "late": False}
