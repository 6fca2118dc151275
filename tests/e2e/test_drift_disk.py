"""What was removed from the disk behind vsprov's back, under a server that runs or one that does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.lab import Lab, image, server

DOCUMENTS = (image(), server("a"), server("b"))


@pytest.fixture
def made(lab: Lab) -> Lab:
    lab.apply(*DOCUMENTS)
    return lab


def layer(lab: Lab) -> Path:
    (found,) = (lab.vsprov.root / "layers").iterdir()
    return found


def repair(lab: Lab, expected: dict[str, tuple[object, object, str]], *untouched: str) -> None:
    """The plan shows exactly these differences, and the apply repairs them: everything works again."""
    before = lab.inits(*untouched)
    assert lab.differences(*DOCUMENTS) == expected
    lab.converge(*DOCUMENTS)
    assert lab.inits(*untouched) == before
    for name in ("a", "b"):
        assert lab.shell(name, "echo x >/written; cat /written") == "x\n"


LOST = "empty; what the server had written is lost"
REPLACED = ("removed or replaced since the start", "mounted", "restart")


def test_an_upper_layer_that_was_removed_under_a_running_server(made: Lab) -> None:
    shutil.rmtree(made.directory("a") / "upper")
    repair(made, {"Server/a /status/upper": ("missing", LOST, "restart")}, "b")


def test_an_upper_layer_that_was_removed_while_the_server_was_stopped(made: Lab) -> None:
    made.vsprov("stop", "a")
    shutil.rmtree(made.directory("a") / "upper")
    said = made.vsprov("start", "a").stderr
    assert "Server/a: started" in said
    assert made.shell("a", "echo x >/written; cat /written") == "x\n"


def test_an_upper_layer_that_was_replaced_under_a_running_server(made: Lab) -> None:
    upper = made.directory("a") / "upper"
    upper.rename(upper.with_name("aside"))
    shutil.copytree(upper.with_name("aside"), upper)
    owner = upper.with_name("aside").stat()
    shutil.chown(upper, owner.st_uid, owner.st_gid)
    shutil.rmtree(upper.with_name("aside"))
    repair(made, {"Server/a /status/upper": REPLACED}, "b")


def test_a_work_directory_that_was_removed_under_a_running_server(made: Lab) -> None:
    shutil.rmtree(made.directory("a") / "work")
    repair(made, {"Server/a /status/work": ("missing", "empty", "restart")}, "b")


def test_a_layer_that_was_removed_under_running_servers(made: Lab) -> None:
    key = layer(made).name
    shutil.rmtree(layer(made))
    repair(
        made,
        {
            "Image/host /spec/source": ("", f"sha256:{key}", "none"),
            f"Server/a /status/layers/{key[:12]}": REPLACED,
            f"Server/b /status/layers/{key[:12]}": REPLACED,
        },
    )


def test_a_layer_that_was_removed_and_made_again_under_running_servers(made: Lab) -> None:
    found = layer(made)
    shutil.copytree(found, found.with_name("copy"), symlinks=True)
    shutil.rmtree(found / "tree")
    found.with_name("copy").joinpath("tree").rename(found / "tree")
    shutil.rmtree(found.with_name("copy"))
    key = found.name[:12]
    repair(made, {f"Server/{name} /status/layers/{key}": REPLACED for name in ("a", "b")})
