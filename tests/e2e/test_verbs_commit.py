"""commit: images made of servers."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.archives import NET_RAW
from tests.e2e.builds import built, is_whole, looks, run, top, trees, whiteout
from tests.lab import Document, Lab, image, server
from vsprov.engine.apply.report import Silent
from vsprov.engine.images import commit as committing
from vsprov.engine.images.commit import Options
from vsprov.engine.work import WorkOptions
from vsprov.model.kinds.image import ImageLimits
from vsprov.store.disk import marks
from vsprov.store.instance import Instance
from vsprov.store.trees import acl

HOST = image()
COUNT = "cd /srv; i=0; while :; do i=$((i+1)); for f in one two; do echo $i > .n; mv .n $f; done; done"


def images(lab: Lab) -> dict[str, Any]:
    return {
        each["name"]: each for each in json.loads(lab.vsprov("image", "ls", "-o", "json").stdout)["items"]
    }


@pytest.mark.vm_subset
def test_an_image_of_a_server_has_what_it_wrote_and_other_servers_use_it(lab: Lab, box: Document) -> None:
    lab.apply(box, server("web1", image="box"))
    first = lab.init("web1")
    lab.shell(
        "web1",
        "cd /srv; echo new > file; ln file twin; chown 33:34 file; chmod 4750 file; ln -s file link; "
        "rm -r old; mkdir old; echo b > old/b; rm /etc/gone; mkdir -m 700 deep; echo x > deep/x",
    )
    done = lab.vsprov("commit", "web1", "saved", "-m", "why", "-a", "who")
    assert re.fullmatch(
        r"Image/saved: created, [0-9a-f]{12}: [\d.]+Ki in the topmost of 2 layers\n", done.stderr
    )
    assert lab.init("web1") == first and "frozen 0" in (lab.group("web1") / "cgroup.events").read_text()
    layer = top(lab, "saved")
    assert len(trees(lab, "saved")) == 2 and trees(lab, "saved")[0] == top(lab, "box")
    assert looks(layer / "srv/file") == ("4750", 33, 34) and os.lstat(layer / "srv/file").st_nlink == 2
    assert looks(layer / "srv/deep") == ("700", 0, 0) and looks(layer) == looks(top(lab, "box"))
    assert whiteout(layer / "etc/gone") and os.getxattr(layer / "srv/old", "trusted.overlay.opaque") == b"y"
    is_whole(lab)
    user = server("user", image="saved")
    lab.converge(user)
    said = lab.shell("user", "cd /srv; cat link; stat -c %u:%g:%a:%h twin; ls old; ls /etc/gone || echo gone")
    assert said == "new\n33:34:4750:2\nb\ngone\n"
    assert lab.is_settled(box, server("web1", image="box"))
    record = images(lab)["saved"]
    made = record["source"]["commit"]
    assert made == {"server": "web1", "digest": record["digest"], "message": "why", "author": "who"}
    assert (record["usedBy"], record["sets"], record["problem"]) == (["Server/user"], ["(commit)"], None)


@pytest.mark.vm_subset
def test_an_image_shows_one_moment_of_a_server_that_writes(lab: Lab) -> None:
    lab.apply(HOST, server("busy", "/bin/sh", "-c", COUNT))
    two = lab.directory("busy") / "upper/srv/two"
    lab.wait_until(lambda: two.exists())
    for number in range(3):
        lab.vsprov("commit", "busy", f"busy-{number}")
        srv = top(lab, f"busy-{number}") / "srv"
        assert int((srv / "one").read_text()) - int((srv / "two").read_text()) in (0, 1)
        seen = two.read_text()
        lab.wait_until(lambda seen=seen: two.read_text() != seen)


def test_attributes_lists_and_capabilities_are_those_inside(lab: Lab, box: Document) -> None:
    lab.apply(box, server("web1", image="box"))
    lab.shell("web1", "cd /srv; echo a > acl; echo c > cap")
    lab.vsprov("stop", "web1")
    base = json.loads(lab.vsprov("get", "server", "web1", "-o", "json").stdout)["status"]["idRange"]["first"]
    upper = lab.directory("web1") / "upper/srv"
    entries = [(acl.USER_OBJ, 6, acl.NO_ID), (acl.USER, 4, base + 7), (acl.GROUP_OBJ, 4, acl.NO_ID)]
    entries += [(acl.MASK, 4, acl.NO_ID), (acl.OTHER, 0, acl.NO_ID)]
    os.setxattr(upper / "acl", acl.ACCESS, acl.pack([acl.Entry(*each) for each in entries]))
    os.setxattr(upper / "acl", "user.note", b"n")
    os.setxattr(upper / "cap", "security.capability", NET_RAW)
    lab.vsprov("commit", "web1", "saved")
    srv = top(lab, "saved") / "srv"
    assert [each.id for each in acl.parse(os.getxattr(srv / "acl", acl.ACCESS)) if each.tag == acl.USER] == [
        7
    ]
    assert os.getxattr(srv / "acl", "user.note") == b"n"
    assert os.getxattr(srv / "cap", "security.capability") == NET_RAW
    assert lab.processes("web1") == []


def test_special_files_are_left_out_and_what_they_hide_stays_hidden(lab: Lab, box: Document) -> None:
    steps = run("rm /etc/gone; mkfifo /etc/gone /srv/step")
    lab.apply(box, built(steps), server("web1", image="box"), server("web2", image="built"))
    assert lab.shell("web2", "ls -d /etc/gone /srv/step 2>/dev/null || echo none") == "none\n"
    lab.shell("web1", "rm /etc/gone; mkfifo /etc/gone /srv/pipe; echo x > /srv/file")
    done = lab.vsprov("commit", "web1", "saved")
    assert (
        "Image/saved: left out, because images keep no devices, FIFOs and sockets: 'etc/gone' (a FIFO)"
        in (done.stderr)
    )
    assert whiteout(top(lab, "saved") / "etc/gone") and not os.path.lexists(top(lab, "saved") / "srv/pipe")
    assert stat.S_ISFIFO(os.lstat(lab.root("web1") / "srv/pipe").st_mode)  # the server keeps its own
    lab.converge(server("user", image="saved"))
    assert lab.shell("user", "ls -d /etc/gone /srv/* 2>/dev/null || :") == "/srv/file\n/srv/old\n"
    is_whole(lab)


def test_a_file_of_any_size_does_not_hold_up_a_commit(lab: Lab, box: Document) -> None:
    lab.apply(box, server("web1", image="box"))
    lab.shell("web1", "truncate -s 4096G /srv/huge; echo x > /srv/file")
    done = lab.vsprov("commit", "web1", "saved", check=False)
    said = "Server/web1: commit: 'srv/huge': makes the image larger than 68719476736 bytes"
    assert done.returncode == 1 and said in done.stderr and "--max-size sets another limit" in done.stderr
    lab.shell("web1", "truncate -s 3M /srv/huge")
    done = lab.vsprov("commit", "web1", "saved", "--max-size", "2Mi", check=False)
    assert done.returncode == 1 and "makes the image larger than 2097152 bytes" in done.stderr
    assert "saved" not in images(lab)
    is_whole(lab)
    lab.vsprov("commit", "web1", "saved", "--max-size", "4Mi")
    assert os.stat(top(lab, "saved") / "srv/huge").st_size == 3 << 20
    assert json.loads(lab.vsprov("get", "image", "saved", "-o", "json").stdout)["spec"]["limits"]["size"] in (
        4 << 20,
        "4Mi",
    )


def test_any_number_of_files_is_committed(lab: Lab, box: Document) -> None:
    lab.apply(box, server("web1", image="box"))
    lab.shell("web1", "cd /srv; touch a b c d")
    instance = Instance(lab.vsprov.name, str(lab.vsprov.root))
    few = Options(limits=ImageLimits(files=2))  # of archives, which are 1 million by default
    committing.commit(instance, "web1", "saved", few, Silent(), WorkOptions())
    lab.converge(server("user", image="saved"))
    assert lab.shell("user", "cd /srv; ls a b c d") == "a\nb\nc\nd\n"


def test_a_device_in_what_a_server_wrote_is_refused(lab: Lab, box: Document) -> None:
    lab.apply(box, server("web1", image="box", state="Stopped"))
    os.mknod(lab.directory("web1") / "upper/disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    done = lab.vsprov("commit", "web1", "saved", check=False)
    assert done.returncode == 1 and "'disk': is a block device, which an image may not contain" in done.stderr
    assert "saved" not in images(lab)
    is_whole(lab)


@pytest.mark.parametrize("mark", ["redirect", "metacopy"])
def test_an_upper_layer_that_refers_to_those_below_is_refused(lab: Lab, box: Document, mark: str) -> None:
    lab.apply(box, server("web1", image="box", state="Stopped"))
    moved = lab.directory("web1") / "upper/moved"
    moved.mkdir()
    owner = os.lstat(lab.directory("web1") / "upper")
    os.chown(moved, owner.st_uid, owner.st_gid)
    os.setxattr(moved, f"trusted.overlay.{mark}", b"/srv")
    done = lab.vsprov("commit", "web1", "saved", check=False)
    assert done.returncode == 1 and f"upper directory: moved: has trusted.overlay.{mark}" in done.stderr
    assert "saved" not in images(lab)
    is_whole(lab)


def test_defaults_for_servers_are_those_of_the_image_and_of_the_options(lab: Lab, box: Document) -> None:
    base = built(command=["/bin/sleep", "inf"], env={"A": "1", "B": "1"}, workingDir="/etc")
    lab.apply(box, base, server("web1", image="built", init={"env": {"SECRET": "x"}}))
    lab.vsprov("commit", "web1", "plain")
    lab.vsprov(
        *("commit", "web1", "own", "--command", "sh -c 'id -u; pwd; echo $A$B$SECRET; exec sleep inf'"),
        *("--env", "B=2", "--workdir", "/srv", "--user", "7", "--stop-signal", "SIGKILL"),
    )
    plain, own = server("plain", image="plain"), server("own", image="own")
    for one in (plain, own):
        del one["spec"]["init"]
    lab.converge(plain, own)
    assert lab.run("plain", "readlink", "/proc/1/cwd").stdout == "/etc\n"
    lab.wait_until(lambda: lab.console("own").count("\n") == 3)
    assert lab.console("own") == "7\n/srv\n12\n"


def test_the_image_stays_whatever_the_manifests_do_until_it_is_removed(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.shell("web1", "echo old > /srv/file")
    lab.vsprov("commit", "web1", "saved")
    lab.apply(HOST, server("web1"), flags=("--prune",))
    lab.vsprov("image", "prune", "--all", "-y")
    assert lab.vsprov("image", "pull", "saved").stderr == "Image/saved: up to date\n"
    before = images(lab)["saved"]
    # Its document is a manifest, which adds nothing and removes nothing.
    document = yaml.safe_load(lab.vsprov("get", "image", "saved", "-o", "yaml").stdout)
    document = {key: document[key] for key in ("apiVersion", "kind", "spec")} | {
        "metadata": {"name": "saved"}
    }
    onto = built({"write": {"path": "/srv/more", "content": "more"}}, name="onto", on="saved")
    lab.converge(HOST, document, onto, server("web1"), server("web2", image="onto"))
    assert lab.shell("web2", "cat /srv/file /srv/more") == "old\nmore"
    assert images(lab)["saved"]["sets"] == ["(commit)", "default"]
    refused = lab.vsprov("commit", "web1", "saved", "--replace", check=False)
    assert refused.returncode == 1 and "Image/saved: exists, and belongs to set default" in refused.stderr
    lab.apply(HOST, server("web1"), flags=("--prune",))
    assert images(lab)["saved"] == before
    lab.vsprov("image", "verify", "saved")
    lab.vsprov("image", "rm", "saved")
    assert "saved" not in images(lab)
    said = lab.refused(HOST, document, server("web1"))
    assert "made of server web1 by vsprov commit, is not in the store or is damaged" in said
    assert "it cannot be made again from a manifest" in said


def test_a_replaced_image_is_asked_for_and_its_servers_keep_theirs_until_they_restart(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.shell("web1", "echo one > /srv/file")
    lab.vsprov("commit", "web1", "saved")
    user = server("user", image="saved")
    lab.apply(user)
    before, digest = lab.init("user"), images(lab)["saved"]["digest"]
    lab.shell("web1", "echo two > /srv/file")
    done = lab.vsprov("commit", "web1", "saved", check=False)
    assert done.returncode == 1 and done.stderr.startswith("vsprov: Image/saved: exists\n")
    assert "--replace replaces it" in done.stderr and images(lab)["saved"]["digest"] == digest
    told = json.loads(lab.vsprov("commit", "web1", "saved", "--replace", "-o", "json").stdout)
    assert told["replaced"] == digest and told["digest"] == images(lab)["saved"]["digest"] != digest
    assert (told["server"], told["image"], told["files"] > 0) == ("web1", "saved", True)
    assert lab.init("user") == before and lab.shell("user", "cat /srv/file") == "one\n"
    (change,) = lab.plan(user)["resource_changes"]
    assert change["disruption"] == "restart"
    lab.converge(user)
    assert lab.shell("user", "cat /srv/file") == "two\n"


def test_the_same_files_are_the_same_layer_and_a_commit_of_a_commit_adds_one(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.shell("web1", "echo one > /srv/file")
    lab.vsprov("commit", "web1", "a")
    lab.vsprov("commit", "web1", "b")
    assert trees(lab, "a") == trees(lab, "b")
    lab.apply(server("web2", image="a"))
    lab.shell("web2", "echo two >> /srv/file")
    lab.vsprov("commit", "web2", "c")
    assert trees(lab, "c")[:-1] == trees(lab, "a")
    assert (top(lab, "c") / "srv/file").read_text() == "one\ntwo\n"


@pytest.mark.requires("ext4", "loop", "mkfs_ext4")
def test_a_server_whose_disk_is_limited_is_committed_running_and_stopped(lab: Lab) -> None:
    limited = server("web1", resources={"disk": {"space": "64Mi", "backend": "image"}})
    lab.apply(HOST, limited)
    lab.shell("web1", "echo one > /srv/file")
    lab.vsprov("commit", "web1", "running")
    lab.vsprov("stop", "web1")
    lab.vsprov("commit", "web1", "stopped")
    assert [(top(lab, name) / "srv/file").read_text() for name in ("running", "stopped")] == ["one\n"] * 2
    lab.converge(HOST, limited, server("user", image="stopped"))
    assert lab.shell("user", "cat /srv/file") == "one\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("web1", "host"), 1, "Image/host: exists, and belongs to set default"),
        (("web1", "host", "--replace"), 1, "Image/host: exists, and belongs to set default"),
        (("web1", "../x"), 64, "not a name that an image can have"),
        (("web1", "No"), 64, "not a name that an image can have"),
        (("nobody", "new"), 1, "Server/nobody"),
        (("web1", "new", "--user", "No Body"), 64, "--user: 'No Body' is not a user"),
        (("web1", "new", "--stop-signal", "NONE"), 64, "--stop-signal: 'NONE' is not a signal"),
        (("web1", "new", "--command", "sh -c 'x"), 64, "--command sh -c 'x: No closing quotation"),
        (("web1", "new", "--workdir", "srv"), 64, "--workdir srv: is not an absolute path"),
        (("web1", "new", "--max-size", "1X"), 64, "--max-size: "),
        (("web1", "new", "--env", "A"), 64, "--env 'A': not a variable"),
        (("web1", "new", "-m", "x" * 1001), 64, "--message: more than 1000 characters"),
        (("web1",), 64, "IMAGE"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    shared_lab: Lab, words: tuple[str, ...], code: int, message: str
) -> None:
    if not shared_lab.directory("web1").exists():
        shared_lab.apply(HOST, server("web1"))
    before = shared_lab.init("web1")
    done = shared_lab.vsprov("commit", *words, check=False)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert list(images(shared_lab)) == ["host"] and shared_lab.init("web1") == before
    is_whole(shared_lab)


def test_an_image_without_an_owner_mark_is_not_replaced(lab: Lab) -> None:
    lab.apply(HOST, server("web1"))
    lab.vsprov("commit", "web1", "saved")
    marks.remove_mark(f"{lab.vsprov.root}/images/saved.json", marks.OWNER)
    done = lab.vsprov("commit", "web1", "saved", "--replace", check=False)
    assert done.returncode == 1 and "Image/saved: exists, and belongs to nobody that is known" in done.stderr
    os.unlink(f"{lab.vsprov.root}/images/saved.json")


def test_a_file_that_belongs_to_the_host_is_named_and_what_to_do_about_it(
    lab: Lab, box: Document, tmp_path: Path
) -> None:
    lab.apply(box, server("web1", image="box"))
    lab.shell("web1", "mkdir -p /srv/own")
    (lab.directory("web1") / "upper/srv/own/host").mkdir()
    base = os.lstat(lab.directory("web1") / "upper").st_uid
    for words in (("commit", "web1", "saved"), ("export", "web1", "-o", tmp_path / "archive")):
        done = lab.vsprov(*words, check=False)
        assert done.returncode == 1
        assert re.search(r"srv/own/host'?: belongs to 0:0, none of the server's ids\n", done.stderr)
        assert (
            f"  hint: remove it, or give it to the server's root by `chown -R {base}:{base}` on"
            in done.stderr
        )
    subprocess.run(
        ["chown", "-R", f"{base}:{base}", lab.directory("web1") / "upper/srv/own/host"], check=True
    )
    lab.vsprov("commit", "web1", "saved")
    lab.vsprov("export", "web1", "-o", tmp_path / "archive")
