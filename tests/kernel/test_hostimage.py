"""The host's own image."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.kernel.stores import Store
from vsprov.errors import ImageError
from vsprov.model.sources import HostSource, Source
from vsprov.store.hostimage import Bind


def test_the_host_image_runs_the_hosts_programs_and_knows_none_of_its_secrets(store: Store) -> None:
    binds = store.binds(Source(host=HostSource()))
    layer = store.layer()
    assert binds[0] == Bind("/usr", "/usr")
    assert not (layer / "etc/shadow").exists()
    assert os.listdir(layer / "usr") == os.listdir(layer / "home") == os.listdir(layer / "root") == []
    for name in ("resolv.conf", "hostname", "machine-id"):
        assert (layer / "etc" / name).stat().st_size == 0
    owners = {(os.lstat(path).st_uid, os.lstat(path).st_gid) for path in layer.rglob("*")}
    assert owners == {(0, 0)}
    for line in (layer / "etc/passwd").read_text().splitlines():
        name, password, number, *_ = line.split(":")
        assert password == "*", name
        assert int(number) < 1000 or name == "nobody"
    host = socket.gethostname()
    binds = " ".join(f"mount --bind {bind.source} {layer}{bind.target};" for bind in binds)
    inside = f"exec chroot {layer} /bin/sh -lc 'id -un; id -gn nobody; echo $PATH'"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f"{binds} {inside}"], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "root",
        "nogroup",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    if host != "localhost":
        assert host not in (layer / "etc/hosts").read_text()


def test_the_digest_of_the_host_image_stays_while_the_recipe_stays(store: Store) -> None:
    plain = store.resolve(Source(host=HostSource()))
    assert store.resolve(Source(host=HostSource(paths=("/usr/local",)))) == plain
    (store.folder / "shared").mkdir()
    more = store.resolve(Source(host=HostSource(paths=(str(store.folder / "shared"),))))
    assert more.digest != plain.digest


def test_a_path_of_the_host_becomes_a_bind_with_its_place_made_ready(store: Store) -> None:
    for name in ("shared/a", "shared/b"):
        (store.folder / name).mkdir(parents=True)
    paths = (str(store.folder / "shared/b"), f"{store.folder}/shared/", str(store.folder / "shared/b"))
    binds = store.binds(Source(host=HostSource(paths=paths)))
    wanted = [str(store.folder / "shared"), str(store.folder / "shared/b")]
    assert [bind.source for bind in binds][-2:] == wanted
    assert [bind.target for bind in binds][-2:] == wanted
    assert (store.layer() / wanted[1][1:]).is_dir()


def test_the_state_root_is_never_shared_with_servers(store: Store) -> None:
    os.makedirs(store.instance.root)
    for path in (Path(store.instance.root).parent, store.instance.root):
        with pytest.raises(ImageError, match="the state root of this instance"):
            store.imported(Source(host=HostSource(paths=(str(path),))))
    store.holds_nothing()
