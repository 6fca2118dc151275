"""Only what is ours: others' objects and sets, prune, destroy, saved plans."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Document, Lab, hierarchy, image, pool, server, to_yaml, version, wait_until

# -- strangers


@pytest.mark.parametrize("controller", ["", "memory"])
def test_a_cgroup_without_our_mark_is_refused_and_untouched(lab: Lab, controller: str) -> None:
    lab.apply(image(), server("a"))
    foreign = lab.group("b", controller)
    foreign.mkdir()
    stranger = subprocess.Popen(["sleep", "infinity"])
    try:
        (foreign / "cgroup.procs").write_text(str(stranger.pid))
        before = lab.init("a")
        said = lab.refused(image(), server("a"), server("b"))
        assert "Server/b" in said and "no owner mark" in said
        assert (foreign / "cgroup.procs").read_text() == f"{stranger.pid}\n"
        assert os.listxattr(foreign) == []
        assert lab.init("a") == before
        lab.vsprov("destroy", "--all", "-y", check=False)
        assert stranger.poll() is None and foreign.is_dir()
    finally:
        stranger.kill()
        stranger.wait()
        wait_until(lambda: removed(foreign))


@pytest.mark.parametrize("controller", ["", "memory"])
def test_an_empty_group_that_somebody_made_below_ours_outlives_destroy(lab: Lab, controller: str) -> None:
    lab.apply(image(), server("a"))
    foreign = lab.group("foreign", controller)
    foreign.mkdir()
    try:
        said = lab.vsprov("destroy", "--all", "-y").stderr
        assert "Server/foreign: not removed: part of it has no owner mark of this instance" in said
        assert foreign.is_dir() and not lab.group("a").exists() and not lab.directory("a").exists()
        assert "Server/foreign" in lab.refused(image(), server("foreign"))
    finally:
        foreign.rmdir()
    lab.vsprov("destroy", "--all", "-y")
    assert not foreign.parent.exists()


def test_a_group_that_somebody_made_in_a_servers_v1_group_is_named_when_that_is_removed(lab: Lab) -> None:
    if version("memory") == 2:
        return  # the server's own root may make groups there
    lab.apply(image(), server("a"))
    foreign = lab.group("a", "memory") / "foreign"
    foreign.mkdir()
    try:
        done = lab.vsprov("destroy", "--all", "-y", check=False)
        assert done.returncode == 1
        assert f"{foreign.parent} has groups below it that vsprov did not create: foreign" in done.stderr
        assert foreign.is_dir()
    finally:
        foreign.rmdir()


def test_no_verb_touches_a_group_without_our_mark_that_stands_where_a_server_would(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    foreign = lab.group("b")
    foreign.mkdir()
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        (foreign / "cgroup.procs").write_text(str(stranger.pid))
        for words in (["stop", "b"], ["restart", "b"], ["start", "b"], ["exec", "b", "--", "true"]):
            said = lab.vsprov(*words, check=False)
            assert said.returncode == 1 and "no owner mark" in said.stderr, words
        assert lab.vsprov("get", "servers", "-o", "name").stdout == "Server/a\n"
        lab.vsprov("stop", "--all")
        lab.vsprov("start", "--all")
        assert lab.init("a") and stranger.poll() is None
        assert "Server/b: not removed" in lab.vsprov("destroy", "--all", "-y").stderr
        assert not lab.directory("a").exists() and not (lab.vsprov.root / "images").exists()
        assert stranger.poll() is None and os.listxattr(foreign) == []
    finally:
        stranger.kill()
        stranger.wait()
        wait_until(lambda: removed(foreign))
        lab.vsprov("destroy", "--all", "-y")


def test_destroy_all_leaves_a_server_whose_mark_was_edited_with_what_it_needs(lab: Lab) -> None:
    lab.apply(image(), pool("all", pids={"max": 100}), server("a", quota="all"), server("b"))
    os.setxattr(lab.group("all/a"), "trusted.vsprov.owner", b"garbage")
    before = lab.init("all/a")
    said = lab.vsprov("destroy", "--all", "-y").stderr
    assert all(f"{one}: not removed" in said for one in ("Server/a", "Image/host", "Quota/all"))
    assert lab.init("all/a") == before
    assert not lab.directory("b").exists()
    os.setxattr(lab.group("all/a"), "trusted.vsprov.owner", f"server {lab.vsprov.name}/default".encode())
    lab.vsprov("destroy", "--all", "-y")


def removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return not folder.exists()
    return True


def test_the_group_of_the_whole_instance_is_refused_when_it_is_a_strangers(lab: Lab) -> None:
    foreign = hierarchy("") / lab.vsprov.name
    foreign.mkdir()
    try:
        said = lab.refused(image(), server("a"))
        assert f"cgroup {lab.vsprov.name} exists but has no owner mark" in said
        assert os.listxattr(foreign) == [] and not (foreign / "a").exists()
    finally:
        foreign.rmdir()


def test_a_server_directory_without_our_mark_is_refused_and_untouched(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    foreign = lab.directory("b")
    foreign.mkdir()
    (foreign / "precious").write_text("data")
    said = lab.refused(image(), server("a"), server("b"))
    assert "Server/b" in said and "no owner mark" in said
    assert (foreign / "precious").read_text() == "data"
    assert not lab.group("b").exists()
    (foreign / "precious").unlink()
    foreign.rmdir()


def test_an_image_without_our_mark_is_refused_and_untouched(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    (record,) = (lab.vsprov.root / "images").iterdir()
    name = "trusted.vsprov.owner"
    mark = os.getxattr(record, name)
    os.removexattr(record, name)
    before = record.read_bytes() if record.is_file() else b""
    said = lab.refused(image(directory="/usr/share/doc"), server("a"))
    assert "Image/host" in said and "no owner mark" in said
    assert (record.read_bytes() if record.is_file() else b"") == before
    os.setxattr(record, name, mark)


# -- sets


def test_another_sets_objects_are_refused_and_untouched(lab: Lab) -> None:
    documents = (image(), server("a", resources={"pids": {"max": 9}}))
    lab.apply(*documents, flags=("--set-name", "one"))
    before = lab.init("a")
    said = lab.refused(image(), server("a", resources={"pids": {"max": 5}}), flags=("--set-name", "two"))
    assert "belongs to" in said and "/one" in said
    assert lab.init("a") == before and lab.limit("a", "pids.max") == "9"
    assert lab.is_settled(*documents, flags=("--set-name", "one"))


def test_prune_removes_what_this_set_made_and_nothing_else(lab: Lab) -> None:
    lab.apply(image("other"), server("theirs", image="other"), flags=("--set-name", "other"))
    lab.apply(image(), image("old"), pool("team"), server("a"), server("b", quota="team", image="old"))
    theirs, ours = lab.init("theirs"), lab.init("a")
    lab.apply(image(), server("a"))  # without --prune nothing goes
    assert lab.init("team/b")
    lab.apply(image(), server("a"), flags=("--prune",))
    assert not lab.group("team").exists() and not lab.directory("b").exists()
    assert sorted(path.name.partition(".")[0] for path in (lab.vsprov.root / "images").iterdir()) == [
        "host",
        "other",
    ]
    assert (lab.init("theirs"), lab.init("a")) == (theirs, ours)


def test_an_empty_manifest_prunes_only_when_told_so(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    before = lab.init("a")
    refused = lab.vsprov("apply", "-y", "--prune", "-", input="# nothing\n", check=False)
    assert refused.returncode != 0 and "--allow-empty" in refused.stderr
    assert lab.init("a") == before
    lab.vsprov("apply", "-y", "--prune", "--allow-empty", "-", input="# nothing\n")
    assert lab.vsprov.left() == []


def test_prune_with_a_selector_is_refused(lab: Lab) -> None:
    done = lab.vsprov("apply", "-y", "--prune", "-l", "a=b", "-", input=to_yaml(image()), check=False)
    assert done.returncode == 64 and "--prune" in done.stderr


def test_a_selector_touches_only_the_servers_it_means(lab: Lab) -> None:
    lab.apply(image(), server("a", labels={"tier": "web"}), server("b"))
    before = lab.inits("a", "b")
    lab.apply(
        image(),
        server("a", labels={"tier": "web"}, resources={"pids": {"max": 9}}),
        server("b", resources={"pids": {"max": 9}}),
        flags=("-l", "tier=web"),
    )
    assert (lab.limit("a", "pids.max"), lab.limit("b", "pids.max")) == ("9", "max")
    assert lab.inits("a", "b") == before


def test_a_truncated_manifest_changes_nothing(lab: Lab) -> None:
    lab.apply(image(), server("a"), server("b"))
    before = lab.inits("a", "b")
    text = to_yaml(image(), server("a"), server("b"))
    done = lab.vsprov("apply", "-y", "--prune", "-", input=text[: len(text) - 20], check=False)
    assert done.returncode == 65
    assert lab.inits("a", "b") == before


# -- destroy


def test_destroying_a_manifest_leaves_the_rest(lab: Lab) -> None:
    lab.apply(image(), pool("team"), server("a", quota="team"), server("b"))
    before = lab.init("b")
    lab.vsprov(
        "destroy", "-y", "-", input=to_yaml(pool("team"), server("a", image="host", quota="team"), image("x"))
    )
    assert lab.init("b") == before
    assert not lab.group("team").exists() and not lab.directory("a").exists()


def test_destroying_everything_leaves_nothing(lab: Lab) -> None:
    lab.apply(image(), server("theirs"), flags=("--set-name", "other"))
    lab.apply(image("second"), pool("team"), server("a", image="second", quota="team"))
    lab.vsprov("destroy", "--all", "-y")
    wait_until(lambda: lab.vsprov.left() == [])
    assert "Nothing" in lab.vsprov("destroy", "--all", "-y").stdout  # a second time does no harm


def test_destroying_what_is_not_there_is_well(lab: Lab) -> None:
    lab.vsprov("destroy", "-y", "-", input=to_yaml(image(), server("a")))
    assert lab.vsprov.left() == []


def test_an_image_in_use_is_not_removed(lab: Lab) -> None:
    lab.apply(image(), server("a"))
    before = lab.init("a")
    done = lab.vsprov("destroy", "-y", "-", input=to_yaml(image()), check=False)
    assert done.returncode == 1 and "Image/host" in done.stderr and "used by Server/a" in done.stderr
    assert lab.init("a") == before


def test_without_a_terminal_nothing_is_done_unless_yes_is_said(lab: Lab) -> None:
    for verb in ("apply", "destroy"):
        if verb == "destroy":
            lab.apply(image(), server("a"))
        done = lab.vsprov(verb, "-", input=to_yaml(image(), server("a")), check=False)
        assert done.returncode == 64 and "-y" in done.stderr
        assert lab.directory("a").exists() == (verb == "destroy")


# -- saved plans


def save(lab: Lab, tmp_path: Path, *documents: Document) -> tuple[Path, Path]:
    manifest, plan = tmp_path / "site.yaml", tmp_path / "saved.plan"
    manifest.write_text(to_yaml(*documents))
    lab.vsprov("plan", "--out", plan, manifest)
    return manifest, plan


def test_a_saved_plan_is_applied_without_a_question(lab: Lab, tmp_path: Path) -> None:
    manifest, plan = save(lab, tmp_path, image(), server("a"))
    assert plan.stat().st_mode & 0o777 == 0o600
    lab.vsprov("apply", plan)
    assert lab.init("a")
    assert "Nothing to do" in lab.vsprov("plan", manifest).stdout


def test_a_saved_plan_is_refused_when_the_manifest_has_changed(lab: Lab, tmp_path: Path) -> None:
    manifest, plan = save(lab, tmp_path, image(), server("a"))
    manifest.write_text(to_yaml(image(), server("a", hostname="other")))
    done = lab.vsprov("apply", plan, check=False)
    assert done.returncode == 1 and "site.yaml" in done.stderr
    assert not lab.group("a").exists()


def test_a_saved_plan_is_refused_when_the_kernel_has_changed(lab: Lab, tmp_path: Path) -> None:
    lab.apply(image(), server("a", resources={"pids": {"max": 9}}))
    _, plan = save(lab, tmp_path, image(), server("a", resources={"pids": {"max": 20}}))
    (lab.group("a", "pids") / "pids.max").write_text("7")
    done = lab.vsprov("apply", plan, check=False)
    assert done.returncode == 1
    assert lab.limit("a", "pids.max") == "7"


def test_a_plan_writes_nothing_anywhere(lab: Lab) -> None:
    empty = lab.vsprov.left()
    for words in (("plan",), ("diff",), ("validate",), ("render",)):
        lab.vsprov(*words, "-", input=to_yaml(image(), pool("team"), server("a", quota="team")), check=False)
    lab.vsprov("get")
    assert lab.vsprov.left() == empty == []


def test_versions_are_decided_controller_by_controller(lab: Lab) -> None:
    lab.converge(image(), server("a"))
    found: dict[str, Any] = {name: lab.group("a", name).is_dir() for name in ("", "cpu", "memory", "pids")}
    assert all(found.values())
    assert version("memory") in (1, 2)
