"""What tests of applies that die share: a lab with a server of another set, and dying after each step."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import features
from tests.effort import worth_trying
from tests.fault.faults import Apply, footprint
from tests.instance import own_instance
from tests.lab import Document, Init, Lab, image, server, wait_until

BYSTANDER = (image("other"), server("bystander", image="other"))
SERVERS, POOLS = ("live", "restarted", "added"), ("team", "free")


@dataclass(frozen=True, slots=True)
class Base:
    """A lab with a server of another set, which must never be touched; `empty` is all there is of it."""

    lab: Lab
    bystander: Init
    empty: list[str]

    def make(self, documents: tuple[Document, ...]) -> list[str]:
        """Apply, which must go well; what there is then."""
        assert Apply(self.lab, documents).run() == 0
        self.settle()
        return footprint(self.lab)

    def remove(self, documents: tuple[Document, ...]) -> None:
        assert Apply(self.lab, documents, remove=True).run() == 0
        wait_until(lambda: footprint(self.lab) == self.empty)

    def settle(self) -> None:
        """Wait until no process is on its way out any more, the spawner of an apply that died for one."""
        places = [
            self.lab.group(place)
            for name in SERVERS
            for place in (name, *(f"{pool}/{name}" for pool in POOLS))
        ]
        inits = sum(
            place.exists() and bool(self.lab.processes(str(place.relative_to(self.lab.group("")))))
            for place in places
        )
        wait_until(
            lambda: footprint(self.lab)[-1] == f"{2 + inits} processes"
        )  # the bystander and the keeper

    def holds(self, expected: list[str], step: int) -> None:
        """The instance has this and nothing else, and the other set's server is the process it was."""
        assert self.lab.init("bystander") == self.bystander, f"after step {step}"
        try:
            wait_until(lambda: footprint(self.lab) == expected)
        except AssertionError:
            now = footprint(self.lab)
            extra, missing = set(now) - set(expected), set(expected) - set(now)
            pytest.fail(f"after step {step}: too much: {extra}; missing: {missing}", pytrace=False)


@contextmanager
def with_bystander(network: int | None = None, parent: Path = features.SERVERS) -> Iterator[Base]:
    """A base in an instance of its own below `parent`, on the host or in this network namespace."""
    with own_instance(parent, network) as instance:
        lab = Lab(instance)
        lab.apply(*BYSTANDER, flags=("--set-name", "elsewhere"))
        yield Base(lab, lab.init("bystander"), footprint(lab))


def every_step(
    base: Base,
    change: Apply,
    prepare: Callable[[], object],
    mend: Callable[[int], None],
    only: Container[str] | None = None,
) -> int:
    """Die after each sort of step of a change, mend it, and begin anew; how many steps there are.

    `only` are the sorts of steps that a usual run tries.
    """
    prepare()
    steps = change.steps()
    mend(0)
    for step in worth_trying(steps[:-1], only):  # after the last it is done
        prepare()
        assert change.dies_after(step)
        mend(step)
    return len(steps)
