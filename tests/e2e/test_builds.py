"""Images built in steps: what each step leaves in the image, and which steps are done again."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.archives import NET_RAW
from tests.e2e.builds import built, is_whole, looks, run, steps_done, store, top, trees, whiteout
from tests.features import requires
from tests.lab import Document, Lab, image, server
from vsprov.store import images

# -- copy and write


@pytest.mark.vm_subset
def test_copied_files_and_folders_are_in_the_image_with_owners_and_modes(
    lab: Lab, box: Document, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "index.html").write_text("hello")
    (site / "sub/run").write_text("#!/bin/sh\n")
    (site / "sub/run").chmod(0o755)
    (site / "link").symlink_to("sub/run")
    os.chown(site / "index.html", 4321, 4321)
    (tmp_path / "tool").write_text("#!/bin/sh\necho tool\n")
    (tmp_path / "tool").chmod(0o750)
    copies: list[Document] = [
        {"copy": {"source": str(site), "target": "/srv/www", "owner": "1000:1000"}},
        {"copy": {"source": str(tmp_path / "tool"), "target": "/bin/", "mode": "0755"}},
        {"copy": {"source": str(tmp_path / "tool"), "target": "/opt/new/place", "owner": "7"}},
        {"write": {"path": "/etc/motd", "content": "hi\n", "mode": "0600", "owner": "5:6"}},
    ]
    lab.converge(box, built(*copies), server("a", image="built"))
    www, tool, opt, etc = trees(lab)[1:]
    assert looks(www / "srv/www/index.html") == ("644", 1000, 1000)
    assert looks(www / "srv/www/sub/run") == ("755", 1000, 1000)
    assert looks(www / "srv/www/sub") == looks(www / "srv/www") == ("755", 1000, 1000)
    assert os.readlink(www / "srv/www/link") == "sub/run"
    assert looks(tool / "usr/bin/tool") == ("755", 0, 0) and not os.path.lexists(tool / "bin")
    assert looks(opt / "opt/new/place") == ("750", 7, 7) and looks(opt / "opt/new") == ("755", 0, 0)
    assert looks(etc / "etc/motd") == ("600", 5, 6)
    said = lab.shell("a", "cat /srv/www/link /etc/motd; tool; ls -ld /bin; ls /srv/old")
    assert said.startswith("#!/bin/sh\nhi\ntool\n")
    assert "/bin -> usr/bin" in said and said.endswith("a\n")
    is_whole(lab)


def test_a_copy_over_an_existing_folder_adds_to_it(lab: Lab, box: Document, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/b").write_text("b")
    step = {"copy": {"source": str(tmp_path / "more"), "target": "/srv/old", "owner": "9"}}
    lab.converge(box, built(step), server("a", image="built"))
    assert lab.shell("a", "cat /srv/old/a /srv/old/b") == "ab"
    assert looks(top(lab) / "srv/old") == ("755", 0, 0)


def test_a_file_does_not_take_the_place_of_a_folder(lab: Lab, box: Document, tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("conf")
    copied = {"copy": {"source": str(tmp_path / "conf"), "target": "/etc"}}
    for step in (copied, {"write": {"path": "/srv/old", "content": ""}}):
        done = lab.apply(box, built(step), check=False)
        assert done.returncode == 1 and "is a directory in the image\n" in done.stderr


@pytest.mark.parametrize("path", ["/usr/local/x", "/bin/x"])
def test_a_file_that_the_hosts_own_would_hide_is_refused(lab: Lab, path: str) -> None:
    step = {"write": {"path": path, "content": ""}}
    done = lab.apply(image("host", host={}), built(step, on="host"), check=False)
    assert done.returncode == 1 and "would hide the file" in done.stderr


def test_holes_are_copied_as_holes(lab: Lab, box: Document, tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    os.truncate(tmp_path / "disk", 64 << 20)
    lab.converge(box, built({"copy": {"source": str(tmp_path / "disk"), "target": "/srv/"}}))
    status = os.stat(top(lab) / "srv/disk")
    assert (status.st_size, status.st_blocks) == (64 << 20, 0)


def test_what_no_image_keeps_is_not_copied(lab: Lab, box: Document, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd/fifo")
    (tmp_path / "odd/file").write_text("x")
    step = {"copy": {"source": str(tmp_path / "odd"), "target": "/srv"}}
    said = lab.apply(box, built(step)).stderr
    assert "Image/built: step 1: left out" in said and "'fifo' (a FIFO)" in said
    (tree,) = (path for path in (lab.vsprov.root / "layers").glob("*/tree") if (path / "srv/file").exists())
    assert os.listdir(tree / "srv") == ["file"]
    os.unlink(tmp_path / "odd/fifo")
    assert lab.is_settled(box, built(step))


def test_a_changed_file_is_copied_anew_and_an_equal_one_is_not(
    lab: Lab, box: Document, tmp_path: Path
) -> None:
    (tmp_path / "conf").write_text("one")
    steps = [
        run("echo slow > /srv/slow"),
        {"copy": {"source": str(tmp_path / "conf"), "target": "/etc/conf"}},
    ]
    assert steps_done(lab.converge(box, built(*steps))) == [1, 2]
    os.utime(tmp_path / "conf", (1, 1))
    assert lab.is_settled(box, built(*steps))
    (tmp_path / "conf").write_text("two")
    assert steps_done(lab.converge(box, built(*steps))) == [2]
    assert (top(lab) / "etc/conf").read_text() == "two"
    is_whole(lab)


# -- run: what it leaves


def test_what_a_run_step_removes_is_gone_and_what_it_replaces_hides_what_was_there(
    lab: Lab, box: Document
) -> None:
    script = "rm /etc/gone; rm -r /srv/old; mkdir /srv/old; echo b > /srv/old/b; rm -r /root; echo x > /new"
    lab.converge(box, built(run(script)), server("a", image="built", init={"workingDir": "/"}))
    tree = top(lab)
    assert whiteout(tree / "etc/gone") and whiteout(tree / "root")
    assert os.getxattr(tree / "srv/old", "trusted.overlay.opaque") == b"y"
    left = ["group", "hosts", "machine-id", "passwd"]
    assert lab.shell("a", "ls /srv/old; cat /new; ls /etc").split() == ["b", "x", *left]
    with pytest.raises(FileNotFoundError):
        os.lstat(lab.root("a") / "etc/gone")
    is_whole(lab)


def test_what_a_run_step_moves_or_touches_of_below_is_whole_in_its_layer(lab: Lab, box: Document) -> None:
    # A kernel with redirect_dir or metacopy on by default would leave references to what lies below.
    lab.converge(box, built(run("mv /srv/old /srv/new; chmod 600 /etc/gone; mv /etc/gone /etc/kept")))
    tree = top(lab)
    assert (tree / "srv/new/a").read_text() == "a" and whiteout(tree / "srv/old")
    assert (tree / "etc/kept").read_text() == "gone" and looks(tree / "etc/kept") == ("600", 0, 0)
    is_whole(lab)


def test_modes_owners_links_and_times_of_a_run_step_are_kept_and_pipes_are_not(
    lab: Lab, box: Document
) -> None:
    script = (
        "cd /srv; cp /bin/busybox su; chmod 4755 su; mkdir -p d/e; chown 1000:1000 d;"
        "echo f > f; ln f g; ln f d/h; ln -s f l; chown -h 7:8 l; mkfifo d/pipe; chmod 2750 d;"
        "touch -d '2001-02-03 04:05:06' f; chown 3:4 f; chmod 6711 f; chmod 700 ."
    )
    lab.converge(box, built(run(script)))
    srv = top(lab) / "srv"
    assert looks(srv / "su") == ("4755", 0, 0)
    assert looks(srv / "d") == ("2750", 1000, 1000)
    assert looks(srv / "f") == ("6711", 3, 4)
    assert os.stat(srv / "f").st_mtime == 981173106
    assert os.stat(srv / "f").st_ino == os.stat(srv / "g").st_ino == os.stat(srv / "d/h").st_ino
    assert looks(srv / "l")[1:] == (7, 8)
    assert sorted(os.listdir(srv / "d")) == ["e", "h"]
    assert looks(srv) == ("700", 0, 0)
    left = [name for name in os.listxattr(srv / "d") if name.startswith("trusted.overlay.")]
    assert left == []
    is_whole(lab)


def test_a_capability_that_a_run_step_gave_a_file_holds_in_every_server(lab: Lab, tmp_path: Path) -> None:
    # The kernel notes the server's root in it (revision 3); a layer is used below other roots.
    requires("setcap")
    step = run("cp /usr/bin/cat /opt/ping; setcap cap_net_raw+ep /opt/ping")
    lab.apply(image(), built({"write": {"path": "/opt/x", "content": ""}}, step, on="host"))
    found = os.getxattr(top(lab) / "opt/ping", "security.capability")
    assert struct.unpack_from("<II", found) == struct.unpack_from("<II", NET_RAW)
    assert len(found) == len(NET_RAW)
    is_whole(lab)


def test_a_run_step_runs_as_the_user_in_the_folder_and_with_the_environment_it_says(
    lab: Lab, box: Document
) -> None:
    step = run("id -u > out; id -g >> out; pwd >> out; echo $A $B $HOME >> out", user="1000:1000",
               workingDir="/srv", env={"A": "a"})  # fmt: skip
    base = built(run("chown 1000:1000 /srv"), name="base", env={"B": "image"})
    lab.converge(box, base, built(step, on="base"))
    assert (top(lab) / "srv/out").read_text().split() == ["1000", "1000", "/srv", "a", "image", "/srv"]
    assert looks(top(lab) / "srv/out") == ("644", 1000, 1000)


def test_a_run_step_that_writes_more_than_the_image_may_hold_is_refused(lab: Lab, box: Document) -> None:
    document = built(run("cd /srv; for i in $(seq 200); do : > f$i; done"))
    document["spec"]["limits"] = {"files": 100}
    said = lab.refused(box, document)
    assert "at most 100 are allowed" in said
    is_whole(lab)


# -- the cache


def test_steps_that_are_as_they_were_are_not_done_again(lab: Lab, box: Document) -> None:
    one, two, three = (run(f"cat /proc/sys/kernel/random/uuid > /srv/{n}") for n in ("1", "2", "3"))
    assert steps_done(lab.converge(box, built(one, two))) == [1, 2]
    kept = (trees(lab)[1] / "srv/1").read_text()
    assert steps_done(lab.converge(box, built(one, two, three))) == [3]
    assert steps_done(lab.converge(box, built(one, three))) == [2]
    assert (trees(lab)[1] / "srv/1").read_text() == kept
    is_whole(lab)


def test_two_images_of_the_same_steps_share_their_layers(lab: Lab, box: Document) -> None:
    steps = [run("echo 1 > /srv/1"), run("echo 2 > /srv/2")]
    lab.converge(box, built(*steps, name="one"), built(*steps, run("echo 3 > /srv/3"), name="two"))
    assert trees(lab, "two")[:3] == trees(lab, "one")
    is_whole(lab)


def test_a_step_that_fails_keeps_those_before_it_and_tells_its_last_words_and_its_code(
    lab: Lab, box: Document
) -> None:
    good = run("echo good > /srv/good")
    bad = run("for i in $(seq 50); do echo line $i; done; echo cannot > /dev/stderr; exit 7")
    done = lab.apply(box, built(good, bad), check=False)
    assert done.returncode == 1
    assert steps_done(done) == [1, 2]
    assert "Image/built: step 2: run for i in" in done.stderr and "it ended with 7" in done.stderr
    told = [line.removeprefix("vsprov:").strip() for line in done.stderr.splitlines()]
    assert told[-21:-1] == [*(f"line {number}" for number in range(32, 51)), "cannot"]
    assert "built" not in images.observe(store(lab))
    is_whole(lab)
    mended = lab.converge(box, built(good, run("echo mended > /srv/mended")))
    assert steps_done(mended) == [2]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/no/such/program"], "/no/such/program"),
        ("sh -c 'kill -9 $$'; exit $?", "it ended with 137"),  # the first process of all is safe from itself
        (["/bin/sh", "-c", "exit 255"], "it ended with 255"),
    ],
)
def test_a_command_that_cannot_run_or_is_killed_is_told(
    lab: Lab, box: Document, command: Any, said: str
) -> None:
    assert said in lab.refused(box, built(run(command)))
    is_whole(lab)


@pytest.mark.bare_debian
def test_what_a_run_step_leaves_running_ends_with_it(lab: Lab, box: Document) -> None:
    lab.converge(box, built(run("sleep 987654321 & setsid sleep 987654321 & echo done > /srv/done")))
    assert leaks.processes("987654321") == {}
    is_whole(lab)


# -- chains


def test_an_image_is_built_on_the_hosts_own_and_on_a_built_one(lab: Lab) -> None:
    base = built(run("echo base > /opt/base"), name="base", on="host", env={"A": "base", "B": "base"})
    leaf = built(
        run("cat /opt/base > /opt/leaf; echo $A >> /opt/leaf"), name="leaf", on="base", env={"B": "leaf"}
    )
    documents = [leaf, base, image(), server("a", image="leaf")]  # whatever the order
    lab.converge(*documents)
    assert lab.shell("a", "cat /opt/leaf; cat /usr/bin/env > /dev/null") == "base\nbase\n"
    environment = (lab.root("a").parent / "environ").read_bytes().split(b"\0")
    assert {b"A=base", b"B=leaf"} <= set(environment)
    is_whole(lab)


def test_a_change_below_builds_what_is_on_it_anew_and_restarts_its_server(lab: Lab, box: Document) -> None:
    def chain(word: str) -> list[Document]:
        base = built(run(f"echo {word} > /srv/word"), name="base")
        return [box, base, built(run("cp /srv/word /srv/copy"), on="base"), server("a", image="built")]

    lab.converge(*chain("one"))
    before = lab.init("a")
    assert lab.shell("a", "cat /srv/copy") == "one\n"
    lab.converge(*chain("two"))
    assert lab.shell("a", "cat /srv/copy") == "two\n"
    assert lab.init("a") != before
    is_whole(lab)


def test_the_image_another_was_built_on_may_go(lab: Lab, box: Document) -> None:
    base = built(run("echo base > /srv/base"), name="base")
    leaf = built(run("echo leaf > /srv/leaf"), on="base")
    lab.converge(box, base, leaf, server("a", image="built"))
    lab.vsprov("image", "rm", "base", "box")
    assert set(images.observe(store(lab))) == {"built"}
    is_whole(lab)
    lab.vsprov("restart", "a")
    assert lab.shell("a", "cat /srv/base /srv/leaf") == "base\nleaf\n"


# -- confinement


CONFINED = """
cat /proc/self/status > /srv/status
cat /proc/net/dev > /srv/net
cat /proc/self/uid_map > /srv/map
cat /proc/kcore 2>/dev/null | head -c 1 > /srv/kcore || true
hostname > /srv/name
(echo x > /proc/sys/kernel/hostname) 2>/srv/sysctl || true
(mknod /srv/disk b 8 0) 2>/srv/mknod || true
ls /dev > /srv/dev
"""


@pytest.fixture
def confined(lab: Lab, box: Document) -> Iterator[Path]:
    lab.apply(box, built(run(CONFINED)), server("a", image="built"))
    yield top(lab) / "srv"


def test_a_run_step_is_confined_as_every_server(lab: Lab, confined: Path) -> None:
    status = dict(line.split(":\t", 1) for line in (confined / "status").read_text().splitlines())
    own = (lab.root("a").parent / "status").read_text()
    ours = dict(line.split(":\t", 1) for line in own.splitlines() if ":\t" in line)
    for key in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp"):
        assert status[key] == ours[key], key
    assert interfaces((confined / "net").read_text()) == {"lo"}
    inside, outside, size = map(int, (confined / "map").read_text().split())
    assert (inside, size) == (0, 65536) and outside >= 524288
    assert (confined / "kcore").read_text() == ""
    assert (confined / "name").read_text() == "build\n"
    assert "Read-only file system" in (confined / "sysctl").read_text()
    assert "Operation not permitted" in (confined / "mknod").read_text()
    assert not {"sda", "vda", "mem", "kmsg"} & set((confined / "dev").read_text().split())


def interfaces(table: str) -> set[str]:
    """The names in /proc/net/dev."""
    return {line.split(":")[0].strip() for line in table.splitlines() if ":" in line}


def test_a_run_step_has_the_hosts_network_only_when_asked(lab: Lab, box: Document) -> None:
    script = "cat /proc/net/dev > /srv/net; cat /etc/resolv.conf > /srv/resolv"
    lab.apply(box, built(run(script, network="host")))
    host = Path("/proc/net/dev").read_text()
    assert interfaces((top(lab) / "srv/net").read_text()) & interfaces(host) > {"lo"}
    assert (top(lab) / "srv/resolv").read_text() == Path("/etc/resolv.conf").read_text()
    assert (top(lab) / "etc/resolv.conf").read_bytes() == b""
    is_whole(lab)


def test_the_plan_of_a_build_reads_only(lab: Lab, box: Document) -> None:
    plan = lab.plan(box, built(run("echo x > /srv/x")))
    assert [change["address"] for change in plan["resource_changes"]] == ["Image/box", "Image/built"]
    assert not lab.vsprov.root.exists()
    assert json.dumps(plan)
