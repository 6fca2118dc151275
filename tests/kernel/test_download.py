"""Downloads from a registry that are cut, damaged or cancelled, or find no space."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import registry as lab
from tests.archives import member, packed
from tests.features import requires
from tests.http_servers import cutting
from tests.kernel.downloads import MIB, held, parts, refusal, sha256
from tests.registry import Registry
from vsprov.errors import FailedError
from vsprov.store.registry.oci_documents import Descriptor
from vsprov.store.registry.parts import RegistryParts

pytestmark = pytest.mark.usefixtures("nobody")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry with an image of one layer of 3 MiB, app:1."""
    requires("docker_registry", "skopeo")
    layout = tmp_path / "layout"
    noise = random.Random(1).randbytes(3 * MIB)  # gzip does not make it smaller
    lab.named(layout, app=lab.image(layout, packed(member("noise", noise))))
    with lab.running(tmp_path / "registry") as running:
        running.push(layout, "app:1", "app")
        yield running


def only_layer(image: RegistryParts) -> Descriptor:
    (layer,) = image.find().manifest.layers
    return layer


def test_a_download_that_is_cut_goes_on_from_where_it_was(tmp_path: Path, registry: Registry) -> None:
    with cutting(registry.host, MIB + 100_000) as proxy:
        image = parts(tmp_path, f"{proxy.host}/app:1")
        layer = only_layer(image)
        proxy.ranges.clear()
        assert sha256(image.layer(layer, lab.quiet)) == layer.digest
    starts = [int(wanted.rstrip("-") or 0) for wanted in proxy.ranges]
    assert len(starts) >= 3 and starts == sorted(set(starts))
    assert sum(start > 0 for start in starts) == len(starts) - (starts[0] == 0)


def test_a_download_that_never_gets_further_ends_and_keeps_what_has_come(
    tmp_path: Path, registry: Registry
) -> None:
    layer = only_layer(parts(tmp_path, f"{registry.host}/app:1"))
    with cutting(registry.host, 100_000) as proxy:
        image = parts(tmp_path, f"{proxy.host}/app:1")
        said = refusal(lambda: image.layer(layer, lab.quiet))
    assert "the connection was closed before the answer was complete" in said
    ((name, size),) = held(tmp_path).items()
    assert name == f"{layer.digest}.part" and 100_000 < size < 400_000
    told: list[int] = []
    parts(tmp_path, f"{registry.host}/app:1").layer(layer, lambda what, done, total: told.append(done))
    assert told[0] == size and told == sorted(told) and told[-1] == layer.size


def test_progress_that_raises_ends_a_download_which_then_goes_on(tmp_path: Path, registry: Registry) -> None:
    class Cancelled(Exception):
        pass

    def cancel(what: str, done: int, total: int) -> None:
        if done > MIB:
            raise Cancelled

    with cutting(registry.host, 1 << 40) as proxy:
        image = parts(tmp_path, f"{proxy.host}/app:1")
        layer = only_layer(image)
        with pytest.raises(Cancelled):
            image.layer(layer, cancel)
        kept = (tmp_path / "downloads" / f"{layer.digest}.part").stat().st_size
        proxy.ranges.clear()
        assert sha256(image.layer(layer, lab.quiet)) == layer.digest
        assert proxy.ranges == [f"{kept}-"]


def test_a_byte_flipped_in_the_registry_is_found_and_the_layer_deleted(
    tmp_path: Path, registry: Registry
) -> None:
    image = parts(tmp_path, f"{registry.host}/app:1")
    layer = only_layer(image)
    data = bytearray(registry.blob(layer.digest).read_bytes())
    data[MIB] ^= 1
    registry.blob(layer.digest).write_bytes(data)
    assert f"layer: expected sha256:{layer.digest}, got sha256:" in refusal(
        lambda: image.layer(layer, lab.quiet)
    )
    assert held(tmp_path) == {}


def test_a_layer_truncated_in_the_registry_is_refused(tmp_path: Path, registry: Registry) -> None:
    image = parts(tmp_path, f"{registry.host}/app:1")
    layer = only_layer(image)
    os.truncate(registry.blob(layer.digest), MIB)
    assert f"ended after {MIB} of {layer.size} bytes" in refusal(lambda: image.layer(layer, lab.quiet))
    assert held(tmp_path) == {f"{layer.digest}.part": MIB}


def test_a_manifest_flipped_in_the_registry_is_refused(tmp_path: Path, registry: Registry) -> None:
    digest = parts(tmp_path, f"{registry.host}/app:1").find().digest
    path = registry.blob(digest)
    path.write_bytes(path.read_bytes().replace(b'"size": ', b'"size":  '))
    wanted = parts(tmp_path, f"{registry.host}/app@sha256:{digest}")
    assert f"expected sha256:{digest}, got sha256:" in refusal(wanted.find)


def test_a_full_disk_is_told_and_the_download_goes_on_once_there_is_room(
    tmp_path: Path, registry: Registry
) -> None:
    image = parts(tmp_path, f"{registry.host}/app:1")
    layer = only_layer(image)
    folder = tmp_path / "downloads"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "vt-downloads", folder], check=True)
    try:
        with pytest.raises(FailedError) as refused:
            image.layer(layer, lab.quiet)
        assert str(refused.value) == f"{folder}/{layer.digest}.part: download: No space left on device"
        assert refused.value.hint == f"free some space on {folder} (tmpfs)"
        assert held(tmp_path) == {f"{layer.digest}.part": 2 * MIB}
        subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
        assert sha256(image.layer(layer, lab.quiet)) == layer.digest
    finally:
        subprocess.run(["umount", folder], check=True)
