"""Hostile servers: one that has the usual rights, one with every capability there is, and one beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests import leaks
from tests.attack.trap import served, trap
from tests.instance import own_instance
from tests.lab import Init, Lab, busybox_image, image, lab, loop_disk, server, wait_until
from vsprov.model.values.names import CAPABILITIES

__all__ = ["lab", "loop_disk", "served", "trap"]


@dataclass(frozen=True, slots=True)
class Field:
    """Where the attacks take place: servers "weak", "strong" and "victim", and "box" of an image with nothing
    but busybox, which may be written to everywhere.
    """

    lab: Lab
    before: dict[str, Init]

    def python(self, name: str, script: str) -> str:
        """What a Python script says that is run in a server; it must end well."""
        return self.lab.run(name, "python3", "-c", script).stdout.strip()

    def shell(self, name: str, script: str) -> str:
        """What a shell script says, on standard output and error, when run in a server; however it ends."""
        return self.lab.run(name, "/bin/sh", "-c", f"exec 2>&1; {script}", check=False).stdout.strip()


NAMES = ("weak", "strong", "victim", "box")


@pytest.fixture(scope="module")
def field_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with own_instance() as instance:
        made = Lab(instance)
        top = busybox_image(tmp_path_factory.mktemp("image") / "busybox")
        made.apply(
            image(),
            image("busybox", directory=str(top)),
            server("weak"),
            server(
                "strong", security={"capabilities": {"add": list(CAPABILITIES)}, "noNewPrivileges": False}
            ),
            server("victim"),
            server("box", image="busybox"),
        )
        yield Field(made, made.inits(*NAMES))


@pytest.fixture
def field(field_of_module: Field) -> Iterator[Field]:
    """The field; whatever was tried, every server is the process it was, and the host's mounts are too."""
    mounts = leaks.mounts_of_host()
    yield field_of_module
    assert field_of_module.lab.inits(*NAMES) == field_of_module.before
    wait_until(lambda: leaks.mounts_of_host() == mounts)
