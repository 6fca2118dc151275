"""The tests of guests and of commands in them with VSPROV_MACHINE_CODE=0: system calls are made in Python.

Of the tests of commands only those that also run in the emulated machine: each starts Python twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType

import pytest

from tests.kernel import (
    test_enter,
    test_guest,
    test_guest_mounts,
    test_guest_users,
    test_spawner,
    test_spawner_gate,
)

WHOLE = (test_guest, test_guest_mounts, test_guest_users, test_spawner, test_spawner_gate)


def of_module(module: ModuleType) -> Iterator[tuple[str, FunctionType]]:
    """The tests of a module, under names that have the module's before them."""
    for name, value in vars(module).items():
        if name.startswith("test_") and isinstance(value, FunctionType):
            yield f"{module.__name__.rpartition('.')[2]}__{name.removeprefix('test_')}", value


def is_in_subset(test: FunctionType) -> bool:
    return any(mark.name == "vm_subset" for mark in vars(test).get("pytestmark", ()))


def outside_the_subset(test: FunctionType) -> Callable[..., None]:
    """The same test, but not for the emulated machine, where nothing of this differs."""
    copy = FunctionType(test.__code__, test.__globals__, test.__name__, test.__defaults__, test.__closure__)
    marks = [mark for mark in vars(test).get("pytestmark", ()) if mark.name != "vm_subset"]
    vars(copy).update(vars(test), pytestmark=marks)
    return copy


TESTS = {name: test for module in WHOLE for name, test in of_module(module)}
TESTS |= {name: test for name, test in of_module(test_enter) if is_in_subset(test)}
globals().update({name: outside_the_subset(test) for name, test in TESTS.items()})


@pytest.fixture(autouse=True)
def in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSPROV_MACHINE_CODE", "0")
