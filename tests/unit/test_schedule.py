"""The order in which changes are carried out, and what the failure of one means for others."""

from __future__ import annotations

from collections.abc import Callable

from vsprov.engine.run.schedule import Job, Loop, Skipped, Work
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
