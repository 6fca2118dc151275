"""Each server has ids of its own: kept in its record, claimed on this host, and checked before it starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab import Lab, image, server, to_yaml
from vsprov.plan.ranges import BLOCK, RANGE
from vsprov.store.disk import sealed

HOST = image()


def base_of(lab: Lab, name: str) -> int:
    first: int = json.loads(lab.vsprov("get", "server", name, "-o", "json").stdout)["status"]["idRange"][
        "first"
    ]
    return first


def forget_range(lab: Lab, name: str) -> None:
    """Make the record of a server one of version 0.1.0, which did not have the range."""
    file = lab.directory(name) / "server.json"
    content, _ = sealed.read(str(file))
    assert content and content.pop("idBase")
    file.write_bytes(sealed.seal(content))


def claims(lab: Lab) -> dict[Path, str]:
    folder = Path("/var/lib/vsprov.ranges")
    found = {link: os.readlink(link) for link in folder.iterdir()} if folder.exists() else {}
    return {link: text for link, text in found.items() if text.startswith(f"{lab.vsprov.name} ")}


def give_to_root(folder: Path) -> None:
    for top, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.lchown(os.path.join(top, name), 0, 0)


def test_a_range_is_claimed_with_the_first_server_and_given_back_with_the_last(lab: Lab) -> None:
    lab.apply(HOST, server("a"), server("b"))
    base = base_of(lab, "a")
    assert base_of(lab, "b") == base + RANGE
    (link,) = claims(lab)
    assert (link.name, claims(lab)[link]) == (str(base // BLOCK), f"{lab.vsprov.name} {lab.vsprov.root}")
    lab.vsprov("destroy", "--all", "-y")
    assert claims(lab) == {}


def test_a_forgotten_state_root_does_not_start_servers_without_their_files(lab: Lab, tmp_path: Path) -> None:
    lab.apply(HOST, server("a"))
    init = lab.init("a")
    other, documents = ("--root", tmp_path / "other"), to_yaml(HOST, server("a"))
    for words in (["apply", "-y", "-"], ["get"], ["restart", "a"], ["destroy", "--all", "-y"]):
        told = lab.vsprov(*words, *other, input=documents, check=False)
        assert (told.returncode, told.stdout) == (69, "")
        assert told.stderr == (
            f"vsprov: {other[1]}: the servers of instance {lab.vsprov.name} are in the state root "
            f"{lab.vsprov.root}\n  hint: use --root {lab.vsprov.root} (sudo does not pass on VSPROV_ROOT), "
            "or another --instance\n"
        )
    assert lab.init("a") == init and not other[1].exists()
    lab.vsprov("destroy", "--all", "-y")
    lab.vsprov("get", *other)


def test_the_record_keeps_the_range_of_a_server_whose_work_directory_is_gone(lab: Lab) -> None:
    lab.apply(HOST, server("a", state="Stopped"))
    base = base_of(lab, "a")
    shutil.rmtree(lab.directory("a") / "work")
    assert lab.differences(HOST, server("a", state="Stopped")) == {
        "Server/a /status/work": ("missing", "empty", "none")
    }
    lab.converge(HOST, server("a", state="Stopped"), server("b", state="Stopped"))
    assert (base_of(lab, "a"), base_of(lab, "b")) == (base, base + RANGE)
    assert os.lstat(lab.directory("a") / "work").st_uid == base


def test_a_server_of_version_0_1_0_is_adopted_without_a_restart(lab: Lab) -> None:
    lab.apply(HOST, server("a"))
    init = lab.init("a")
    forget_range(lab, "a")
    for link in claims(lab):
        link.unlink()
    assert lab.differences(HOST, server("a")) == {
        "Server/a /status/idRange": ("not recorded or not claimed", "recorded and claimed", "live")
    }
    lab.converge(HOST, server("a"))
    assert lab.init("a") == init
    assert len(claims(lab)) == 1
    content, _ = sealed.read(str(lab.directory("a") / "server.json"))
    assert content and content["idBase"] == base_of(lab, "a")


@pytest.mark.parametrize("version", ["recorded", "not recorded"])
def test_a_server_restored_without_its_owners_never_starts_as_the_hosts_root(lab: Lab, version: str) -> None:
    lab.apply(HOST, server("a"), server("b"))
    other = lab.init("b")
    base = base_of(lab, "a")
    lab.vsprov("stop", "a")
    for part in ("upper", "work"):
        give_to_root(lab.directory("a") / part)
    if version == "not recorded":
        forget_range(lab, "a")
        wrong = "its id range is unknown: work/ belongs to 0:0, the record has none"
    else:
        wrong = f"work/ belongs to 0:0, but the server has ids {base}-{base + 65535}"
    for said in (
        lab.refused(HOST, server("a"), server("b")),
        lab.vsprov("start", "a", check=False).stderr,
        lab.vsprov("plan", "-", input=to_yaml(HOST, server("a"), server("b")), check=False).stderr,
    ):
        assert f"Server/a: {wrong}" in said
        assert "restore it with its owners (tar --numeric-owner, rsync --numeric-ids)" in said
    assert lab.processes("a") == [] and lab.init("b") == other
    assert f"Server/a: {wrong}" in lab.vsprov("doctor", check=False).stdout


def test_a_copied_server_directory_gives_no_two_servers_the_same_ids(lab: Lab) -> None:
    lab.apply(HOST, server("a"))
    subprocess.run(["cp", "-a", lab.directory("a"), lab.directory("b")], check=True)
    said = lab.refused(HOST, server("a"), server("b"))
    base = base_of(lab, "a")
    assert f"Server/b: ids {base}-{base + 65535} are also those of Server/a" in said
    shutil.rmtree(lab.directory("b"))


def with_subuid(
    lab: Lab, text: str, folder: Path, *words: str, documents: str
) -> subprocess.CompletedProcess[str]:
    """Run vsprov with another /etc/subuid, in a mount namespace of its own."""
    (folder / "subuid").write_text(text)
    return subprocess.run(
        [
            "unshare", "--mount", "sh", "-ec", 'mount --bind "$1" /etc/subuid; shift; exec "$@"', "sh",
            str(folder / "subuid"), *lab.vsprov.command(*words),
        ],
        input=documents,
        capture_output=True,
        text=True,
        env=lab.vsprov.environment,
    )  # fmt: skip


def test_instances_that_share_the_ids_of_etc_subuid_never_share_a_range(
    lab: Lab, other: Lab, tmp_path: Path
) -> None:
    first = 3900 * BLOCK  # no instance gets so far
    subuid = f"vsprov:{first}:{2 * RANGE}\nvsprov:{first + BLOCK}:{2 * RANGE}\n"
    one = to_yaml(HOST, server("a", state="Stopped"))
    for each in (lab, other):
        done = with_subuid(each, subuid, tmp_path, "apply", "-y", "-", documents=one)
        assert done.returncode == 0, done.stderr
    assert {base_of(lab, "a"), base_of(other, "a")} == {first, first + BLOCK}
    more = to_yaml(HOST, *(server(name, state="Stopped") for name in "abc"))
    done = with_subuid(lab, subuid, tmp_path, "plan", "-", documents=more)
    assert done.returncode == 1
    assert "Server/c: no range of 65536 ids is left among those of user vsprov in /etc/subuid" in done.stderr


def test_an_entry_that_was_added_over_a_servers_ids_is_named_by_plan_and_doctor(
    lab: Lab, tmp_path: Path
) -> None:
    lab.apply(HOST, server("a"))
    base = base_of(lab, "a")
    subuid, ids = f"alice:{base + 65535}:10\n", f"{base + 65535}-{base + 65544}"
    message = f"Server/a: ids {base}-{base + 65535} overlap ids {ids} of alice in /etc/subuid"
    done = with_subuid(lab, subuid, tmp_path, "plan", "-", documents=to_yaml(HOST, server("a")))
    assert done.returncode == 1 and message in done.stderr
    done = with_subuid(lab, subuid, tmp_path, "doctor", documents="")
    assert message in done.stdout
