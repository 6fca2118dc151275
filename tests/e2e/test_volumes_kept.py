"""Volumes outlive servers, and their data is never lost by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_volumes import data, mount
from tests.e2e.verbs import HOST, asked
from tests.features import requires
from tests.lab import Lab, mounted, server, to_yaml, volume

PREVENT = {"annotations": {"vsprov/deletion": "prevent"}}


def names(lab: Lab) -> list[str]:
    return lab.vsprov("get", "-o", "name").stdout.split()


def with_data(lab: Lab, **spec: Any) -> tuple[Any, ...]:
    """Documents of a server that has written to a volume."""
    wanted = (HOST, volume("data", **spec), server("a", **mount(mounted("data"))))
    lab.apply(*wanted)
    lab.shell("a", "head -c 1048576 /dev/zero > /data/file")
    return wanted


@pytest.mark.vm_subset
def test_a_volume_outlives_destroy_and_another_server_finds_its_data(lab: Lab) -> None:
    wanted = with_data(lab)
    done = lab.vsprov("destroy", "-y", "-", input=to_yaml(*wanted))
    assert "note: Volume/data: kept with its files" in done.stdout
    assert names(lab) == ["Volume/data"]
    assert "Nothing to do" in lab.vsprov("destroy", "-y", "-", input=to_yaml(*wanted)).stdout
    lab.converge(HOST, wanted[1], server("b", **mount(mounted("data", "/found"))))
    assert lab.shell("b", "stat -c %s /found/file") == "1048576\n"


@pytest.mark.parametrize("everything", [True, False], ids=["all", "manifest"])
def test_destroy_removes_empty_volumes_on_request_and_one_with_data_only_by_name(
    lab: Lab, everything: bool
) -> None:
    wanted = (*with_data(lab), volume("empty"))
    lab.apply(*wanted)
    words, input = (["--all"], "") if everything else (["-"], to_yaml(*wanted))
    lab.vsprov("destroy", "-y", *words, input=input)
    assert names(lab) == ["Volume/data", "Volume/empty"]
    refused = lab.vsprov("destroy", "-y", "--volumes", *words, input=input, check=False)
    assert refused.returncode == 1
    assert "Volume/data: cannot be removed: it has data, and was not named for that" in refused.stderr
    assert "add --delete-data data" in refused.stderr
    typo = lab.vsprov("destroy", "-y", "--delete-data", "date", *words, input=input, check=False)
    assert typo.returncode == 1
    assert "Volume/date: --delete-data: no volume has this name; did you mean 'data'?" in typo.stderr
    assert names(lab) == ["Volume/data", "Volume/empty"]
    lab.vsprov("destroy", "-y", "--volumes", "--delete-data", "data", *words, input=input)
    assert names(lab) == [] and not (lab.vsprov.root / "volumes").exists()


def test_prune_keeps_volumes_unless_told_otherwise(lab: Lab) -> None:
    (host, kept, user) = with_data(lab)
    lab.apply(host, kept, user, volume("empty"))
    only = to_yaml(host, server("a"))
    shown = lab.vsprov("plan", "--prune", "-", input=only).stdout
    assert "note: Volume/data, Volume/empty: kept with its files" in shown
    lab.vsprov("apply", "-y", "--prune", "-", input=only)
    assert {*names(lab)} == {"Server/a", "Image/host", "Volume/data", "Volume/empty"}
    refused = lab.vsprov("apply", "-y", "--prune", "--volumes", "-", input=only, check=False)
    assert refused.returncode == 1 and "it has data" in refused.stderr
    options = ("--prune", "--volumes", "--delete-data", "data")
    assert "(1Mi of data will be lost)" in lab.vsprov("plan", *options, "-", input=only).stdout
    done = lab.vsprov("apply", "-y", *options, "-", input=only)
    assert "- Volume/data  (1Mi of data will be lost)" in done.stdout
    assert {*names(lab)} == {"Server/a", "Image/host"}
    misused = lab.vsprov("apply", "-y", "--volumes", "-", input=only, check=False)
    assert misused.returncode == 64 and "without --prune" in misused.stderr


def test_a_saved_plan_that_removes_a_volume_names_it_too(lab: Lab, tmp_path: Path) -> None:
    host, *_ = with_data(lab)
    only, file = to_yaml(host, server("a")), tmp_path / "saved.plan"
    lab.apply(host, volume("data"), server("a"))
    lab.vsprov("plan", "--prune", "--delete-data", "data", "--out", file, "-", input=only)
    lab.vsprov("apply", file)
    assert {*names(lab)} == {"Server/a", "Image/host"}


def test_delete_names_the_volume_and_asks_with_the_size_of_its_data(lab: Lab) -> None:
    with_data(lab)
    used = lab.vsprov("delete", "volume", "data", "-y", check=False)
    assert used.returncode == 1
    assert "Volume/data: cannot be removed: used by Server/a" in used.stderr
    lab.vsprov("delete", "server", "a", "-y")
    code, shown = asked(lab, ("delete", "volume/data"), lambda: "n\n")
    assert code == 130 and "volume data, with 1Mi of data?" in shown
    assert data(lab).exists()
    lab.vsprov("delete", "volume", "data", "-y")
    assert not data(lab).parent.exists()


def test_a_protected_volume_is_not_removed_although_it_is_named(lab: Lab) -> None:
    lab.apply(volume("data", PREVENT))
    for words in (("delete", "volume", "data"), ("destroy", "--all", "--volumes", "--delete-data", "data")):
        refused = lab.vsprov(*words, "-y", check=False)
        assert refused.returncode == 1 and "vsprov/deletion: prevent" in refused.stderr
    lab.converge(volume("data"))
    lab.vsprov("delete", "volume", "data", "-y")


@pytest.mark.vm_subset
def test_a_renamed_volume_keeps_its_data_and_its_mounts(lab: Lab) -> None:
    wanted = (
        HOST,
        volume("data"),
        server("a", **mount(mounted("data"))),
        server("b", state="Stopped", **mount(mounted("data"))),
    )
    lab.apply(*wanted)
    lab.shell("a", "echo kept > /data/file")
    init = lab.init("a")
    after = (
        HOST,
        volume("files", {"renamedFrom": "data"}),
        server("a", **mount(mounted("files"))),
        server("b", state="Stopped", **mount(mounted("files"))),
    )
    assert lab.differences(*after) == {
        "Volume/files /metadata/name": ("data", "files", "live"),
        "Server/a /spec/mounts/~1data": ("volume data", "volume files", "live"),
        "Server/b /spec/mounts/~1data/source": ("data", "files", "none"),
    }
    assert "drift" not in lab.vsprov("plan", "-", input=to_yaml(*after)).stdout
    lab.converge(*after)
    assert lab.init("a") == init and lab.shell("a", "cat /data/file") == "kept\n"
    assert (data(lab, "files") / "file").read_text() == "kept\n" and not data(lab).exists()


def test_a_volume_is_not_renamed_under_a_server_that_knows_only_its_old_name(lab: Lab) -> None:
    wanted = with_data(lab)
    said = lab.refused(HOST, volume("files", {"renamedFrom": "data"}))
    assert "volume data is used by Server/a" in said
    lab.apply(*wanted, volume("files"))
    said = lab.refused(HOST, volume("files", {"renamedFrom": "data"}), server("a"))
    assert "both data and files exist" in said


def test_a_volume_of_another_set_or_of_nobody_is_left_alone(lab: Lab) -> None:
    lab.apply(volume("data"), flags=("--set-name", "other"))
    assert "volume data belongs to" in lab.refused(volume("data", mode="0700"))
    folder = lab.vsprov.root / "volumes" / "foreign"
    folder.mkdir()
    try:
        assert "volume foreign exists but has no owner mark" in lab.refused(volume("foreign"))
        lab.vsprov("destroy", "--all", "-y", "--volumes")
        assert folder.exists()
    finally:
        folder.rmdir()


def test_a_volume_whose_files_are_gone_is_never_replaced_by_an_empty_one(lab: Lab) -> None:
    wanted = with_data(lab)
    lab.vsprov("stop", "a")
    moved = data(lab).rename(lab.vsprov.folder / "moved")
    said = lab.refused(*wanted)
    assert "Volume/data: its files cannot be read" in said and "vsprov delete volume data" in said
    assert "volume data: its files cannot be read" in lab.vsprov("start", "a", check=False).stderr
    moved.rename(data(lab))
    lab.converge(*wanted)
    assert lab.shell("a", "stat -c %s /data/file") == "1048576\n"


def test_a_lost_record_is_written_again_and_the_files_stay(lab: Lab) -> None:
    wanted = with_data(lab)
    record = data(lab).parent / "volume.json"
    record.write_text(record.read_text().replace("exclusive", "inclusive"))
    assert "unknown: its record is lost or was edited" in str(lab.differences(*wanted))
    lab.converge(*wanted)
    assert (data(lab) / "file").stat().st_size == 1048576


def test_get_and_describe_show_volumes(lab: Lab) -> None:
    with_data(lab)
    title, row = lab.vsprov("get", "volumes").stdout.splitlines()
    assert title.split() == ["NAME", "SIZE", "USED-BY", "AGE"]
    assert row.split()[:3] == ["data", "1028Ki", "a"]
    found = json.loads(lab.vsprov("get", "volume", "data", "-o", "json").stdout)
    assert found["spec"] == {"exclusive": False}
    assert found["status"]["usedBy"] == ["a"] and found["status"]["usage"]["diskBytes"] >= 1048576
    described = json.loads(lab.vsprov("describe", "volume", "data", "-o", "json").stdout)
    assert described["details"] == {"mounts": [{"server": "a", "target": "/data", "readOnly": False}]}
    manifest = lab.vsprov("get", "-o", "yaml").stdout
    assert "Nothing to do" in lab.vsprov("plan", "-", input=manifest).stdout


def test_a_missing_volume_is_a_problem_of_the_server_that_mounts_it(lab: Lab) -> None:
    lab.apply(volume("data"))
    said = lab.refused(HOST, server("a", **mount(mounted("date"))))
    assert "Server/a: spec.mounts[0].source: volume date not found in the manifest or on this host" in said
    assert "did you mean 'data'?" in said
    lab.converge(HOST, server("a", **mount(mounted("data"))))


@pytest.mark.parametrize("spec", [{}, {"size": "64Mi", "backend": "image"}], ids=["directory", "image"])
def test_what_a_server_writes_while_it_stops_is_not_removed_with_a_volume_that_was_empty(
    lab: Lab, spec: Any
) -> None:
    requires("loop", "ext4", "mkfs_ext4")
    script = "trap 'echo last > /data/words; exit' TERM; echo >/ready; while :; do sleep 0.1; done"
    wanted = (HOST, volume("data", **spec), server("a", "sh", "-c", script, **mount(mounted("data"))))
    lab.apply(*wanted)
    lab.wait_until(lambda: lab.run("a", "test", "-e", "/ready", check=False).returncode == 0)
    done = lab.vsprov("destroy", "-y", "--volumes", "-", input=to_yaml(*wanted), check=False)
    assert done.returncode == 1
    assert "Volume/data: not removed: it was empty when the plan was made" in done.stderr
    lab.converge(HOST, wanted[1], server("b", **mount(mounted("data"))))
    assert lab.shell("b", "cat /data/words") == "last\n"
