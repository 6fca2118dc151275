"""Servers that try to make cp read or write outside of them (CVE-2018-15664, CVE-2019-14271)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.attack.conftest import Field

SECRET = "the host's own\n"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A directory of the host with a file."""
    (tmp_path / "house").mkdir()
    (tmp_path / "house/file").write_text(SECRET)
    return tmp_path / "house"


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_links_in_the_way_lead_to_the_servers_own_files(field: Field, house: Path, name: str) -> None:
    new = house.parent / "new"
    new.write_text("from the host\n")
    field.shell(
        name, f"rm -rf /srv/* /tmp/*; mkdir -p {house}; echo own > {house}/file; ln -s {house} /srv/way"
    )
    field.shell(name, f"ln -s {house}/file /srv/file; ln -s ../../../../../..{house} /srv/up")
    for way in ("way", "up"):
        field.lab.vsprov("cp", new, f"{name}:/srv/{way}/file")
        assert field.shell(name, f"cat {house}/file") == "from the host"
    field.lab.vsprov("cp", new, f"{name}:/srv/file")
    field.lab.vsprov("cp", "-L", f"{name}:/srv/file", house.parent / "read")
    assert (house.parent / "read").read_text() == "from the host\n"
    assert (house / "file").read_text() == SECRET


def test_names_of_proc_lead_nowhere_else(field: Field, house: Path) -> None:
    new = house.parent / "new"
    new.write_text("|/bin/false\n")
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    field.shell("strong", "rm -rf /srv/*; ln -s /proc/1/root /srv/root; ln -s /proc/sys/kernel /srv/kernel")
    field.shell("strong", "ln -s /proc/self/root /srv/self; ln -s /proc/1/cwd /srv/cwd")
    for target in ("/srv/kernel/core_pattern", "/proc/sys/kernel/core_pattern"):
        assert field.lab.vsprov("cp", new, f"strong:{target}", check=False).returncode == 1
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
    assert field.lab.vsprov("cp", f"strong:/srv/self{house}/file", house / "x", check=False).returncode == 1
    assert field.lab.vsprov("cp", f"strong:/srv/root{house}/file", house / "x", check=False).returncode == 1
    assert [each.name for each in house.iterdir()] == ["file"]


def test_a_folder_of_the_host_that_a_server_may_not_write_to_is_not_written_for_it(
    field: Field, house: Path
) -> None:
    """The process that copies has the rights of the server's root, not those of the host's."""
    new = house.parent / "new"
    new.write_text("x")
    done = field.lab.vsprov("cp", new, "weak:/usr/bin/new", check=False)
    assert done.returncode == 1 and "Read-only file system" in done.stderr
    assert not os.path.lexists("/usr/bin/new")


RACE = """
cd /srv; rm -rf race aside; mkdir -p race/d; echo inside > race/d/file
for i in $(seq 300); do mv race/d aside; ln -s %s race/d; mv race/d gone; mv aside race/d; rm gone; done
"""


def test_exchanging_directories_and_links_meanwhile_reaches_no_file_of_the_host(
    field: Field, house: Path
) -> None:
    new = house.parent / "new"
    new.mkdir()
    (new / "file").write_text("from the host\n")
    command = field.lab.vsprov.command("exec", "weak", "--", "sh", "-c", RACE % house)
    field.shell("weak", "mkdir -p /srv/race/d")
    with subprocess.Popen(command, env=field.lab.vsprov.environment) as racing:
        number = 0
        while racing.poll() is None:
            number += 1
            field.lab.vsprov("cp", f"{new}/.", "weak:/srv/race/d", check=False)
            read = house.parent / f"read{number}"
            done = field.lab.vsprov("cp", "weak:/srv/race", read, check=False)
            if done.returncode == 0:
                assert SECRET not in [
                    each.read_text()
                    for each in read.rglob("file")
                    if each.is_file() and not each.is_symlink() and not each.parent.is_symlink()
                ]
    assert number > 1
    assert (house / "file").read_text() == SECRET
    assert [each.name for each in house.iterdir()] == ["file"]


def test_a_link_that_an_earlier_copy_has_brought_is_not_followed_on_the_host(
    field: Field, house: Path
) -> None:
    """First the server's directory is a link to a folder of the host, then a directory with a file for it."""
    backup = house.parent / "backup"
    backup.mkdir()
    field.shell(
        "weak", f"rm -rf /srv/*; mkdir /srv/data; ln -s {house} /srv/data/etc; ln -s {house}/file /srv/data/f"
    )
    field.lab.vsprov("cp", "weak:/srv/data", backup)
    field.shell(
        "weak", "rm /srv/data/*; mkdir /srv/data/etc; echo evil > /srv/data/etc/file; echo evil > /srv/data/f"
    )
    done = field.lab.vsprov("cp", "weak:/srv/data", backup, check=False)
    assert done.returncode == 1 and f"{backup}/data/etc: copy: it is a symbolic link" in done.stderr
    field.shell("weak", "rm -r /srv/data/etc")
    field.lab.vsprov("cp", "weak:/srv/data", backup)
    assert (backup / "data/f").read_text() == "evil\n" and not (backup / "data/f").is_symlink()
    field.shell("weak", f"rm -rf /srv/*; ln -s {house} /srv/top")
    field.lab.vsprov("cp", "weak:/srv/top", backup)
    field.shell("weak", "rm /srv/top; mkdir /srv/top; echo evil > /srv/top/file")
    assert field.lab.vsprov("cp", "weak:/srv/top", backup, check=False).returncode == 1
    assert (house / "file").read_text() == SECRET


def test_nothing_is_loaded_from_the_files_of_a_server(field: Field, house: Path) -> None:
    """Python and its libraries are the host's, also those that are loaded late, for errors or odd names."""
    import encodings
    import tarfile

    evil = f"open('/srv/loaded', 'w').close()\nopen('{house}/file', 'w').write('evil')\n"
    folders = {os.path.dirname(str(module.__file__)) for module in (os, encodings, tarfile)}
    folders |= {os.getcwd(), str(Path(__file__).resolve().parents[2])}
    script = "rm -rf /srv/loaded\n"
    for folder in (each for each in folders if not each.startswith("/usr")):
        script += f"mkdir -p {folder}; cd {folder}\n"
        script += 'for n in traceback linecache copy; do printf %s "$EVIL" > $n.py; done\n'
    field.lab.run("box", "env", f"EVIL={evil}", "sh", "-c", script)
    field.shell("box", "mkdir -p /srv/odd; echo x > \"/srv/odd/$(printf '\\377')\"")
    field.lab.vsprov("cp", "box:/srv/odd", house.parent / "odd")
    field.lab.vsprov("cp", house.parent / "odd", "box:/srv/odd2")
    field.lab.vsprov("cp", house.parent / "odd", "box:/nowhere/at/all", check=False)
    assert field.shell("box", "ls /srv") == "odd\nodd2"
    assert (house / "file").read_text() == SECRET
    assert os.listdir(os.fsencode(house.parent / "odd")) == [b"\377"]


def test_a_file_of_any_size_takes_no_more_room_than_it_has(field: Field, house: Path) -> None:
    field.shell("weak", "rm -rf /srv/*; truncate -s 300M /srv/huge")
    field.lab.vsprov("cp", "weak:/srv/huge", house / "huge")
    found = os.stat(house / "huge")
    assert found.st_size == 300 << 20 and found.st_blocks == 0
