"""Hostile images in every source they may come from, and what has to hold whatever they try."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import registry, shop
from tests.archives import archive, member
from tests.features import requires
from tests.lab import Lab, image
from tests.registry import Registry
from tests.shop import app
from vsprov.store.registry import oci_documents

MACHINE = oci_documents.platforms()[0][0]
WAYS = ("tar", "layout", "saved", "registry")


@dataclass(slots=True)
class Trap:
    """Lets hostile images at a lab; `outside` is a folder of the host that they try to reach."""

    lab: Lab
    folder: Path
    outside: Path
    served: Registry | None = None
    made: int = 0

    def source(self, way: str, *layers: bytes, config: Any = None) -> dict[str, Any]:
        """A source that gives an image of these archives in one of WAYS."""
        self.made += 1
        path = self.folder / f"image{self.made}"
        if way == "tar":
            path.write_bytes(layers[0])
            return {"tar": {"path": str(path)}}
        if way == "saved":
            return {"oci": {"archive": str(saved(path, layers))}}
        made = registry.image(path, *layers, config=config)
        registry.named(path, it=made)
        if way == "layout":
            return {"oci": {"layout": str(path)}}
        assert self.served is not None
        # Not by skopeo, which would look at the layers.
        return {"oci": {"ref": f"{self.served.host}/{stored(self.served, path, made, self.made)}"}}

    def refused(self, source: dict[str, Any], *, code: int = 1, **spec: Any) -> str:
        """What is said of the image `bad` and a server on it: one line, and perhaps a hint."""
        bad = image("bad", **source)
        bad["spec"] |= spec
        done = self.lab.apply(bad, app("a", "bad", {"command": ["/bin/true"]}), check=False)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        lines = [
            line.removeprefix("vsprov: ") for line in done.stderr.splitlines()
            if not line.startswith(("  hint: ", "Image/bad: created")) and "Server/a" not in line
        ]  # fmt: skip
        errors = [line for line in lines if not re.match(r"\d+ of \d+ failed", line)]
        assert len(errors) == 1, done.stderr
        assert "Image/bad" in errors[0] and done.stderr.replace("\n", "").isprintable()
        self.nothing_left()
        return errors[0]

    def nothing_left(self) -> None:
        assert shop.listed(self.lab) == [] and shop.layers(self.lab) == []
        # What has come of a blob waits for another try, or for `image prune`.
        kept = re.compile(r"[0-9a-f]{64}(\.part)?")
        assert [name for name in shop.downloads(self.lab) if not kept.fullmatch(name)] == []
        assert self.lab.processes("a") == []

    def runs(self, source: dict[str, Any], init: Any = None) -> Path:
        """The root, as the host reaches it, of a server on an image that does no harm."""
        command = {"command": ["/bin/sleep", "1000"], **(init or {})}
        self.lab.converge(image("odd", **source), app("odd", "odd", command))
        return self.lab.root("odd")


def saved(path: Path, layers: tuple[bytes, ...]) -> Path:
    """An archive as `docker save` writes it."""
    diff_ids = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]
    config = json.dumps({
        "os": "linux", "architecture": MACHINE, "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }).encode()  # fmt: skip
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    listed = json.dumps([{"Config": name, "RepoTags": ["it:1"], "Layers": names}]).encode()
    parts = [member(each, data) for each, data in zip(names, layers, strict=True)]
    return archive(path, *parts, member(name, config), member("manifest.json", listed))


def stored(served: Registry, layout: Path, made: dict[str, Any], number: int) -> str:
    """Put an image into the registry's storage as it is, and not through its checks; `repository@digest`."""
    top = served.storage / "docker/registry/v2"
    links = top / f"repositories/bad{number}"
    for path in (layout / "blobs/sha256").iterdir():
        data = top / f"blobs/sha256/{path.name[:2]}/{path.name}/data"
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_bytes(path.read_bytes())
        for kind in ("_layers", "_manifests/revisions"):
            entry = links / kind / "sha256" / path.name / "link"
            entry.parent.mkdir(parents=True, exist_ok=True)
            entry.write_text(f"sha256:{path.name}")
    return f"bad{number}@{made['digest']}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    requires("docker_registry")
    with registry.running(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def trap(lab: Lab, served: Registry, tmp_path: Path) -> Iterator[Trap]:
    """A trap; whatever was tried, nothing of the host has changed."""
    requires("busybox")
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    (outside / "note").write_text("mine")
    hosts = {path: sorted(os.listdir(path)) for path in ("/", "/etc", "/root", "/usr")}
    yield Trap(lab, tmp_path, outside, served)
    assert [path.name for path in outside.iterdir()] == ["note"]
    assert (outside / "note").read_text() == "mine"
    assert {path: sorted(os.listdir(path)) for path in hosts} == hosts
