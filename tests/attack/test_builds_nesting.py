"""A hostile `run` step: control groups that it makes in its own, to outgrow what the host can name or afford.

A path of more than 4096 bytes (PATH_MAX) is refused by every call that takes one, so a group nested deeper
than that could be neither found nor removed, and every later apply would fail at the attempt.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.features import hierarchies
from tests.lab import Document, Lab, busybox_image, image, server

NAME = "a" * 200  # 21 of these exceed PATH_MAX
NEST = f"""
cd /sys/fs/cgroup/unified 2> /dev/null || cd /sys/fs/cgroup
depth=0
while mkdir {NAME} 2> /dev/null; do
    cd -P {NAME} && depth=$((depth + 1))
    if [ $depth -ge 40 ]; then break; fi
done
echo depth $depth
"""
SPREAD = """
cd /sys/fs/cgroup/unified 2> /dev/null || cd /sys/fs/cgroup
number=0
while mkdir g$number 2> /dev/null; do
    number=$((number + 1))
    if [ $number -ge 1500 ]; then break; fi
done
echo groups $number
"""


@pytest.fixture
def box(tmp_path: Path) -> Document:
    return image("box", directory=str(busybox_image(tmp_path / "box")))


def attack(lab: Lab, box: Document, script: str) -> str:
    """What a `run` step says that ends badly after this script; its apply leaves no group behind."""
    hostile = {"from": "box", "steps": [{"run": {"command": f"{script}exit 3"}}]}
    said = lab.refused(box, image("built", build=hostile))
    assert "it ended with 3" in said, said
    top = hierarchies()[""] / lab.vsprov.name
    assert not top.exists() or not list(top.glob(".build-*"))
    return said


def number_after(word: str, said: str) -> int:
    found = re.search(rf" {word} ([0-9]+)$", said, re.MULTILINE)
    assert found, said
    return int(found.group(1))


@pytest.mark.vm_subset
def test_a_step_nests_no_group_deeper_than_a_server_may(lab: Lab, box: Document) -> None:
    said = attack(lab, box, NEST)
    # The payload is the first of the twelve levels below the build's own group.
    assert number_after("depth", said) == 11
    lab.converge(box, server("a", image="box"))


def test_a_step_makes_no_more_groups_than_a_server_may(lab: Lab, box: Document) -> None:
    said = attack(lab, box, SPREAD)
    # The payload is one of the thousand.
    assert number_after("groups", said) == 999
    lab.converge(box, server("a", image="box"))


def test_a_step_cannot_raise_the_bounds(lab: Lab, box: Document) -> None:
    files = ("cgroup.max.depth", "cgroup.max.descendants")
    said = attack(lab, box, "".join(f"echo max > /sys/fs/cgroup/{file} || true\n" for file in files) + NEST)
    for file in files:
        assert f"can't create /sys/fs/cgroup/{file}: Permission denied" in said
    assert number_after("depth", said) == 11


@pytest.mark.parametrize("script", [NEST, SPREAD], ids=["deep", "many"])
def test_a_server_is_bounded_alike(lab: Lab, box: Document, script: str) -> None:
    lab.converge(box, server("a", image="box"))
    said = lab.shell("a", script)
    # The payload, and for the number of groups the one that this session runs in.
    assert said in ("depth 11\n", "groups 998\n")
    lab.vsprov("restart", "a")
    assert lab.shell("a", "echo fine") == "fine\n"
