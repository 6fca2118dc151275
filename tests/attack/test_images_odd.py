"""Images that are odd rather than refused: no server on one gets further than on any other, and what cannot
work is told in one line.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.archives import folder, hard, link, member, packed
from tests.attack.trap import Trap
from tests.lab import image, wait_until
from tests.shop import CONFIG, app, busybox_layer, layers

SLEEP = {"command": ["/bin/sleep", "1000"]}


def start(trap: Trap, source: dict[str, Any], init: Any = None) -> tuple[int, str]:
    """(exit code, what is said) of an apply of a server on an image; then it runs, or nothing does."""
    done = trap.lab.apply(image("odd", **source), app("odd", "odd", init), check=False)
    assert done.stderr.replace("\n", "").isprintable()
    assert done.returncode == 0 or trap.lab.processes("odd") == []
    return done.returncode, done.stderr


# -- the root file system


@pytest.mark.parametrize("what", ["link", "file", "link to nothing", "link in circles"])
@pytest.mark.parametrize("place", ["proc", "sys", "dev", "tmp", "etc"])
def test_what_stands_in_the_place_of_a_folder_that_every_server_has_leads_nowhere(
    trap: Trap, place: str, what: str
) -> None:
    target = {"link": str(trap.outside), "link to nothing": "/no/where", "link in circles": place}.get(what)
    there = packed(member(place, b"x") if target is None else link(place, target))
    outside = packed(folder(str(trap.outside).lstrip("/")))
    code, said = start(trap, trap.source("layout", busybox_layer(), outside, there), SLEEP)
    assert code in (0, 1)
    if code == 1:
        assert "Server/odd: " in said and f"/{place}" in said
    else:
        assert Path(f"/proc/{trap.lab.init('odd').pid}/root/bin/busybox").exists()


@pytest.mark.parametrize("file", ["etc/passwd", "etc/group"])
@pytest.mark.parametrize("what", ["link", "folder", "endless", "huge"])
def test_a_list_of_users_that_is_none_is_not_followed(trap: Trap, file: str, what: str) -> None:
    (trap.folder / "secret").write_text("app:x:0:0::/:/bin/sh\n")
    odd = {
        "link": link(file, str(trap.folder / "secret")),
        "folder": folder(file),
        "endless": link(file, "/dev/zero"),
        "huge": member(file, b"x:x:1:1::/:\n" * 500_000),
    }[what]
    source = trap.source("layout", busybox_layer(), packed(odd), config={**CONFIG, "User": "app:app"})
    code, said = start(trap, source, SLEEP)
    assert code == 1 and "Server/odd: " in said and "app" in said


def test_layers_that_change_what_is_below_a_later_one_stay_inside(trap: Trap) -> None:
    """A folder becomes a link out of the image, through which the next layer writes, deletes and links."""
    outside = str(trap.outside)
    there = outside.lstrip("/")
    root = trap.runs(
        trap.source(
            "layout",
            busybox_layer(),
            packed(folder("d"), member("d/a", b"a"), folder(there), member(f"{there}/note", b"the image's")),
            packed(link("d", outside), link("deep", "../../../../.." + outside)),
            packed(member("d/b", b"b"), member("deep/.wh.note"), hard("deep/h", "d/b")),
            packed(member("d/.wh..wh..opq"), member("d/c", b"c")),
        )
    )
    assert sorted(os.listdir(root / there)) == ["c"]
    assert os.readlink(root / "d") == outside


def test_ten_thousand_links_to_one_file_and_a_deep_tree_are_kept_verified_and_removed(trap: Trap) -> None:
    deep = "/".join(["d"] * 200)
    odd = packed(
        member("one", b"1"),
        *(hard(f"links/{number}", "one") for number in range(10_000)),
        member(f"{deep}/end", b"x"),
    )
    root = trap.runs(trap.source("layout", busybox_layer(), odd))
    assert (root / "one").stat().st_nlink == 10_001 and (root / deep / "end").exists()
    assert trap.lab.vsprov("image", "verify").returncode == 0
    trap.lab.vsprov("image", "dedupe")
    assert trap.lab.vsprov("image", "verify").returncode == 0
    trap.lab.vsprov("destroy", "--all", "-y")
    assert layers(trap.lab) == []


NAMES = ("\x1b[31mred\x1b[0m", "a\nvsprov: all is well", "\u202egnp.exe", "\x9b2J", "a\rb", "b\udcff")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_cannot_play_tricks_on_the_terminal(trap: Trap, name: str) -> None:
    said = trap.refused(trap.source("tar", packed(member(name, uid=65536))))
    assert "belongs to 65536:0" in said and said.isprintable()
    fifo = packed(member(name, type=tarfile.FIFOTYPE))
    said = trap.lab.apply(image("odd", **trap.source("tar", fifo))).stderr
    assert "(a FIFO)" in said and said.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_verify_shows_odd_names_as_text(trap: Trap, name: str) -> None:
    trap.lab.apply(image("odd", **trap.source("tar", packed(member(name, b"x")))))
    (layer,) = layers(trap.lab)
    (file,) = (trap.lab.vsprov.root / "layers" / layer / "tree").iterdir()
    file.unlink()
    said = trap.lab.vsprov("image", "verify", check=False)
    assert said.returncode == 1 and "is missing" in said.stdout
    assert said.stdout.replace("\n", "").isprintable() and len(said.stdout.splitlines()) == 2 + (
        "mtime" in said.stdout
    )


# -- what the image says about its program


def test_a_megabyte_of_environment_is_passed_on_or_told(trap: Trap) -> None:
    small = [f"V{number}={'x' * 1000}" for number in range(1000)]
    code, said = start(trap, trap.source("layout", busybox_layer(), config={**CONFIG, "Env": small}), SLEEP)
    assert code == 0, said
    assert len(Path(f"/proc/{trap.lab.init('odd').pid}/environ").read_bytes()) > 1_000_000
    assert trap.lab.run("odd", "/bin/sh", "-c", "echo ${#V999}").stdout == "1000\n"


def test_one_variable_that_the_kernel_cannot_pass_on_is_told(trap: Trap) -> None:
    """execve(2): MAX_ARG_STRLEN, 128 KiB for one string."""
    huge = {**CONFIG, "Env": ["A=" + "x" * (1 << 20)]}
    code, said = start(trap, trap.source("layout", busybox_layer(), config=huge), SLEEP)
    assert code == 1 and "Server/odd: " in said and "Argument list too long" in said
    assert len(said) < 2000


@pytest.mark.parametrize(
    "config",
    [
        {"User": "root:root:x"},
        {"User": "nobody-knows"},
        {"User": "-1"},
        {"User": "4294967295"},
        {"User": "../../x"},
        {"User": "a\nb"},
        {"WorkingDir": "/bin/busybox"},
        {"WorkingDir": "/bin/busybox/not/there"},
        {"Entrypoint": ["/not/there"], "Cmd": []},
        {"Entrypoint": [], "Cmd": []},
        {"Entrypoint": [""], "Cmd": []},
        {"Entrypoint": ["/etc"], "Cmd": []},
        {"Entrypoint": ["a\0b"], "Cmd": []},
        {"Env": ["A=a\0b"]},
        {"StopSignal": "SIGNONE"},
        {"StopSignal": "9999"},
    ],
    ids=ascii,
)
def test_a_configuration_that_cannot_work_is_told_in_one_line(trap: Trap, config: dict[str, Any]) -> None:
    code, said = start(trap, trap.source("layout", busybox_layer(), config={**CONFIG, **config}))
    assert code in (1, 65), said
    assert "Server/odd" in said or "Image/odd" in said
    assert "internal" not in said


@pytest.mark.parametrize("target", ["/proc/self/exe", "/proc/1/exe", "/proc/self/fd/3"])
def test_an_entrypoint_that_leads_to_our_own_program_reaches_nothing_of_the_host(
    trap: Trap, target: str
) -> None:
    """CVE-2019-5736: the program that enters the server must not be opened from inside."""
    before = Path(sys.executable).resolve().stat()
    odd = packed(link("entry", target))
    config = {**CONFIG, "Entrypoint": ["/entry", "-c", "import os; os.system('id')"], "Cmd": [], "User": ""}
    done = trap.lab.apply(
        image("odd", **trap.source("layout", busybox_layer(), odd, config=config)),
        app("odd", "odd"),
        check=False,
    )
    assert done.returncode in (0, 1)
    after = Path(sys.executable).resolve().stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_size) == (
        after.st_ino,
        after.st_mtime_ns,
        after.st_size,
    )
    if done.returncode == 0:
        wait_until(lambda: trap.lab.processes("odd") == [])
        assert "uid=" not in trap.lab.console("odd")


# -- a folder that changes while it is read


def test_a_folder_that_changes_while_it_is_read_is_taken_whole_or_refused(trap: Trap) -> None:
    top = trap.folder / "changing"
    (top / "d").mkdir(parents=True)
    for number in range(300):
        (top / f"d/{number}").write_bytes(b"0" * 10_000)
    turn = "echo $i >$0/d/7; mv $0/d $0/e; ln -s $1 $0/d; rm $0/d; mv $0/e $0/d"
    script = f"i=0; while :; do i=$((i+1)); {turn}; done"
    restless = subprocess.Popen(["/bin/sh", "-c", script, str(top), str(trap.outside)])
    try:
        done = trap.lab.apply(image("odd", directory=str(top)), check=False)
    finally:
        restless.kill()
        restless.wait()
    assert done.returncode in (0, 1)
    if done.returncode:
        assert "Image/odd: " in done.stderr
        assert layers(trap.lab) == []
    else:
        (layer,) = layers(trap.lab)
        assert not (trap.lab.vsprov.root / "layers" / layer / "tree/d/note").exists()
        assert trap.lab.vsprov("image", "verify").returncode == 0


# -- servers of one image


def test_c20_servers_of_one_image_have_ids_of_their_own(trap: Trap) -> None:
    """CVE-2026-62313."""
    source = trap.source("layout", busybox_layer())
    trap.lab.converge(image("odd", **source), *(app(name, "odd", SLEEP) for name in "abc"))
    ranges = []
    for init in trap.lab.inits("a", "b", "c").values():
        inside, outside, count = map(int, Path(f"/proc/{init.pid}/uid_map").read_text().split())
        assert inside == 0 and outside >= 65536
        ranges.append((outside, outside + count))
    ranges.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))


def test_c21_who_is_not_root_reads_and_changes_nothing_of_the_store(trap: Trap) -> None:
    trap.lab.converge(image("odd", **trap.source("layout", busybox_layer())), app("odd", "odd", SLEEP))
    for words in (
        ("ls",),
        ("verify",),
        ("dedupe",),
        ("prune", "--all", "-y"),
        ("rm", "odd"),
        ("pull", "odd"),
    ):
        done = subprocess.run(
            ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
             *trap.lab.vsprov.command("image", *words)],
            env={**trap.lab.vsprov.environment, "HOME": "/nonexistent"}, capture_output=True, text=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode not in (0, 70) and "Traceback" not in done.stderr, (words, done)
    assert trap.lab.run("odd", "echo", "still").stdout == "still\n"


def test_a_working_directory_that_no_layer_has_is_made(trap: Trap) -> None:
    config = {**CONFIG, "WorkingDir": "/not/there"}
    code, said = start(trap, trap.source("layout", busybox_layer(), config=config), SLEEP)
    assert code == 0, said
    assert trap.lab.run("odd", "/bin/pwd").stdout == "/not/there\n"
