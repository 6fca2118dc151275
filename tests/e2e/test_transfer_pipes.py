"""export and import with a pipe between them."""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.verbs import HOST
from tests.lab import Document, Lab, mounted, server, volume


def test_through_a_pipe_and_with_another_name_beside_the_original(lab: Lab) -> None:
    lab.apply(HOST, volume("data"), server("web1", mounts=[mounted("data")]))
    lab.shell("web1", "echo one > /srv/file; echo v > /data/file")
    environment = lab.vsprov.environment
    with subprocess.Popen(
        lab.vsprov.command("export", "web1"), env=environment, stdout=subprocess.PIPE
    ) as sender:
        words = ("import", "-", "--name", "web2", "--volume", "data=data2", "-o", "json")
        done = subprocess.run(
            lab.vsprov.command(*words), env=environment, stdin=sender.stdout, capture_output=True, text=True
        )
    assert (sender.returncode, done.returncode) == (0, 0), done.stderr
    said = json.loads(done.stdout)
    assert (said["server"], said["exported"], said["volumes"]) == ("web2", "web1", ["data2"])
    lab.vsprov("start", "web2")
    lab.shell("web1", "echo other > /srv/file; echo other > /data/file")
    assert lab.shell("web2", "cat /srv/file /data/file; hostname") == "one\nv\nweb2\n"
    assert lab.shell("web2", "cat /etc/machine-id") != lab.shell("web1", "cat /etc/machine-id")
    found: Document = json.loads(lab.vsprov("get", "server", "web2", "-o", "json").stdout)
    want = {key: found[key] for key in ("apiVersion", "kind", "metadata", "spec")}
    both = (server("web1", mounts=[mounted("data")]), want)
    assert lab.is_settled(HOST, volume("data"), volume("data2"), *both)


def test_an_import_takes_no_lock_before_there_is_something_to_read(lab: Lab, tmp_path: Path) -> None:
    """The export at the other end of the pipe may hold it until it writes."""
    lab.apply(HOST, server("web1"))
    lab.vsprov("export", "web1", tmp_path / "web1")
    command = lab.vsprov.command("import", "-", "--name", "web2")
    with (
        open(lab.vsprov.run / "lock") as lock,
        subprocess.Popen(
            command, env=lab.vsprov.environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        wchan = Path(f"/proc/{running.pid}/wchan")
        lab.wait_until(lambda: running.poll() is not None or "poll" in wchan.read_text())
        assert running.poll() is None
        fcntl.flock(lock, fcntl.LOCK_UN)
        _, told = running.communicate((tmp_path / "web1").read_bytes())
    assert running.returncode == 0, told
    assert (lab.directory("web2") / "upper").exists()


@pytest.mark.parametrize("name", [(), ("--name", "web2")])
def test_an_import_of_an_empty_pipe_says_so(lab: Lab, name: tuple[str, ...]) -> None:
    done = lab.vsprov("import", "-", *name, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "vsprov: standard input: import: it is empty\n  hint: the command that writes it has failed\n",
    )
    assert not lab.vsprov.root.exists()
