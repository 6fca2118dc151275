"""Sets that share images: each has its own claim, and the last one removes the image."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.e2e.networks import network_lab
from tests.lab import Document, Lab, image, server, to_yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "manifests/examples"
ONE, TWO = ("--set-name", "one"), ("--set-name", "two")


def sets(lab: Lab, name: str = "host") -> list[str]:
    """The sets of an image, by the two verbs that show them."""
    listed = json.loads(lab.vsprov("image", "ls", "-o", "json").stdout)["items"]
    shown = json.loads(lab.vsprov("get", "image", name, "-o", "json").stdout)["status"]["sets"]
    assert {each["name"]: each["sets"] for each in listed}[name] == shown
    found: list[str] = shown
    return found


def destroy(lab: Lab, *documents: Document, flags: tuple[str, ...]) -> str:
    return lab.vsprov("destroy", "-y", *flags, "-", input=to_yaml(*documents)).stdout


def test_an_image_of_one_spec_belongs_to_every_set_that_has_it_until_the_last_one_goes(lab: Lab) -> None:
    first, second = (image(), server("a")), (image(), server("b"))
    lab.apply(*first, flags=ONE)
    assert sets(lab) == ["one"]
    changes = {change["address"]: change for change in lab.plan(*second, flags=TWO)["resource_changes"]}
    (path,) = changes["Image/host"]["paths"]
    assert (path["path"], path["before"], path["after"]) == ("/sets", ["one"], ["one", "two"])
    assert changes["Image/host"]["change"]["actions"] == ["update"]
    lab.apply(*second, flags=TWO)
    assert sets(lab) == ["one", "two"]
    assert lab.is_settled(*first, flags=ONE) and lab.is_settled(*second, flags=TWO)

    assert "sets: one, two → two" in destroy(lab, *first, flags=ONE)
    assert sets(lab) == ["two"] and lab.is_settled(*second, flags=TWO)
    assert "Nothing to" in destroy(lab, *first, flags=ONE)  # a second time does no harm
    assert sets(lab) == ["two"] and lab.run("b", "echo", "here").stdout == "here\n"
    destroy(lab, *second, flags=TWO)
    assert lab.vsprov.left() == []


def test_prune_ends_the_part_of_its_own_set_only(lab: Lab) -> None:
    lab.apply(image(), server("a"), flags=ONE)
    lab.apply(image(), image("own"), server("b", image="own"), flags=TWO)
    assert sets(lab) == ["one", "two"]
    lab.apply(image("own"), server("b", image="own"), flags=(*TWO, "--prune"))
    assert sets(lab) == ["one"] and sets(lab, "own") == ["two"]
    assert lab.is_settled(image(), server("a"), flags=ONE)


def test_another_source_under_the_same_name_is_refused_with_the_set_that_has_it(
    lab: Lab, tmp_path: Path
) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    one, two = (image("base", directory=str(tmp_path / name)) for name in "xy")
    lab.apply(one, flags=ONE)
    said = lab.refused(two, flags=TWO)
    assert (
        "Image/base: image base is another one in set one: source.directory is "
        f"{tmp_path}/x there and {tmp_path}/y here"
    ) in said
    # What both have is changed by neither alone: the plan of the other one would change it back.
    lab.apply(one, flags=TWO)
    assert "image base is another one in set one" in lab.refused(two, flags=TWO)
    destroy(lab, one, flags=ONE)
    lab.apply(two, flags=TWO)
    assert sets(lab, "base") == ["two"]


def test_what_changes_in_a_shared_source_is_imported_by_whoever_applies_first(
    lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("old")
    shared = image("base", directory=str(tmp_path))
    lab.apply(shared, flags=ONE)
    (tmp_path / "file").write_text("new")
    lab.apply(shared, flags=TWO)  # joins, and imports
    assert sets(lab, "base") == ["one", "two"] and lab.is_settled(shared, flags=ONE)
    (tmp_path / "file").write_text("newer")
    lab.apply(shared, flags=ONE)
    assert sets(lab, "base") == ["one", "two"] and lab.is_settled(shared, flags=TWO)
    lab.vsprov("image", "pull", "base")
    assert sets(lab, "base") == ["one", "two"]
    lab.vsprov("image", "rm", "base")
    assert lab.vsprov.left() == []


def test_a_damaged_record_of_a_shared_image_is_mended_for_all(lab: Lab) -> None:
    lab.apply(image(), flags=ONE)
    lab.apply(image(), flags=TWO)
    (record,) = (lab.vsprov.root / "images").iterdir()
    os.truncate(record, 10)
    lab.apply(image(), flags=TWO)
    assert sets(lab) == ["one", "two"] and lab.is_settled(image(), flags=ONE)


def test_the_tutorial_can_follow_the_quickstart(tmp_path: Path) -> None:
    quickstart = str(EXAMPLES / "quickstart.yaml")
    with network_lab() as net:
        lab = net.lab
        lab.vsprov("apply", "-y", quickstart)
        lab.vsprov("init", str(tmp_path / "demo"))
        lab.vsprov("apply", "-y", str(tmp_path / "demo/servers"))
        assert sets(lab) == ["default", "demo"] and lab.init("web")
        lab.vsprov("destroy", "-y", quickstart)
        assert sets(lab) == ["demo"] and lab.init("web")
        lab.vsprov("destroy", "-y", str(tmp_path / "demo/servers"))
        assert lab.vsprov.left() == []
