"""Images of an apply: imported at once, interrupted, changed below servers that run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import registry
from tests.archives import archive, folder, member, packed
from tests.e2e.builds import built, is_whole, run, store
from tests.kernel.stores import workers
from tests.lab import Document, Lab, busybox_image, image, server, to_yaml, wait_until
from vsprov.store import images
from vsprov.store.layers import layers


def test_servers_of_a_changed_image_restart_one_by_one_and_stop_with_the_first_that_fails(
    lab: Lab, tmp_path: Path
) -> None:
    tree = busybox_image(tmp_path / "tree")
    (tree / "bin/serve").symlink_to("busybox")
    (tree / "srv/serve").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tree / "srv/serve").chmod(0o755)
    names = ["a", "b", "c"]
    documents = [image("box", directory=str(tree))]
    documents += [server(name, "/srv/serve", image="box") for name in names]
    lab.converge(*documents)
    before = lab.inits(*names)
    (tree / "srv/serve").unlink()
    said = lab.refused(*documents)
    assert "Server/a: " in said and "/srv/serve" in said
    for name in ("b", "c"):
        assert lab.init(name) == before[name]
    (tree / "srv/serve").write_text("#!/bin/sh\nexec sleep 2000\n")
    (tree / "srv/serve").chmod(0o755)
    lab.converge(*documents)
    after = lab.inits(*names)
    assert not set(after.values()) & set(before.values())
    assert after["a"].start <= after["b"].start <= after["c"].start
    is_whole(lab)


def test_an_image_whose_source_changes_during_the_apply_is_updated_by_the_next_one(
    lab: Lab, tmp_path: Path
) -> None:
    tree = busybox_image(tmp_path / "tree")
    hooks = {"postStart": [{"exec": ["touch", str(tree / "srv/later")]}]}
    documents = [
        image("box", directory=str(tree)),
        server("a", "/bin/sleep", "1000", image="box", hooks=hooks),
    ]
    lab.apply(*documents)
    assert lab.run("a", "/bin/ls", "/srv").stdout == ""
    lab.converge(*documents)
    assert lab.run("a", "/bin/ls", "/srv").stdout == "later\n"


def test_an_image_that_changes_while_its_server_runs_keeps_the_old_layers_until_it_moved(
    lab: Lab, box: Document
) -> None:
    documents = [box, built(run("echo one > /srv/word")), server("a", image="built")]
    lab.converge(*documents)
    old = images.observe(store(lab))["built"].digest
    lab.apply(box, built(run("echo two > /srv/word")))  # the image alone
    assert lab.shell("a", "cat /srv/word") == "one\n"
    assert images.is_whole(store(lab), old)
    lab.vsprov("image", "prune", "-y")
    assert images.is_whole(store(lab), old)
    lab.converge(box, built(run("echo two > /srv/word")), server("a", image="built"))
    assert lab.shell("a", "cat /srv/word") == "two\n"
    assert not images.is_whole(store(lab), old)
    is_whole(lab)


def test_other_limits_are_recorded_and_touch_no_server(lab: Lab, box: Document) -> None:
    lab.converge(box, server("a", image="box"))
    before = lab.init("a")
    key = layers.keys(store(lab))
    limited = {**box, "spec": {**box["spec"], "limits": {"files": 5000, "size": "1Gi"}}}
    lab.converge(limited, server("a", image="box"))
    assert images.observe(store(lab))["box"].spec["limits"] == {"files": 5000, "size": 1 << 30}
    assert lab.init("a") == before and layers.keys(store(lab)) == key


def test_images_of_all_kinds_are_imported_by_one_apply(lab: Lab, box: Document, tmp_path: Path) -> None:
    layer = packed(folder("srv"), member("srv/file", b"x"))
    made = registry.named(tmp_path / "layout", x=registry.image(tmp_path / "layout", layer, layer))
    tarred = archive(tmp_path / "a.tar", folder("srv"), member("srv/file", b"x"))
    documents = [
        image(), box, built(run("echo 1 > /srv/1")), image("tar", tar={"path": str(tarred)}),
        *(image(f"oci{n}", oci={"layout": str(made)}) for n in range(4)),
    ]  # fmt: skip
    lab.converge(*documents)
    records = images.observe(store(lab))
    assert len(records) == len(documents)
    assert len({records[f"oci{n}"].digest for n in range(4)}) == 1
    is_whole(lab)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_an_import_that_is_ended_leaves_no_worker_and_the_next_apply_does_it(
    lab: Lab, tmp_path: Path, number: int, code: int
) -> None:
    members = [member(f"f{n:06}", b"x") for n in range(10_000)]
    documents = (image("big", tar={"path": str(archive(tmp_path / "big.tar", *members))}),)
    apply = subprocess.Popen(
        lab.vsprov.command("apply", "-y", "-"), text=True, env=lab.vsprov.environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert apply.stdin is not None
    apply.stdin.write(to_yaml(*documents))
    apply.stdin.close()
    apply.stdin = None
    wait_until(
        lambda: any(len(os.listdir(tree)) > 20 for tree in Path(store(lab).layers).glob(".making-*/tree"))
    )
    apply.send_signal(number)
    _, said = apply.communicate(timeout=60)
    assert apply.returncode == code and "Traceback" not in said
    wait_until(lambda: not workers(str(lab.vsprov.root)))
    assert images.observe(store(lab)) == {}
    if number != signal.SIGKILL:
        assert os.listdir(store(lab).layers) == []
    done = lab.converge(*documents)
    assert ("left by an interrupted command" in done.stderr) == (number == signal.SIGKILL)
    is_whole(lab)
