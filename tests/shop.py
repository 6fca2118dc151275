"""A registry on loopback with an image whose tag the tests move, and the manifest of what runs on it."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import registry
from tests.archives import member, packed
from tests.lab import Document, Lab, busybox_image, image
from tests.registry import Registry

# What images of the tests say about their program, unless a test says otherwise.
CONFIG = {
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["echo $GREETING; exec sleep 1000"],
    "Env": ["GREETING=hello", "PATH=/bin"],
    "User": "app",
    "WorkingDir": "/srv",
    "StopSignal": "SIGINT",
}


@functools.cache
def busybox_layer() -> bytes:
    """The archive of a root file system with nothing but busybox."""
    folder = Path(tempfile.mkdtemp(prefix="vt-busybox-"))
    try:
        return packed_folder(busybox_image(folder / "root"))
    finally:
        shutil.rmtree(folder)


def packed_folder(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(folder, arcname=".")
    return out.getvalue()


def version_layer(version: str) -> bytes:
    """What tells one version of the image from another: a file that says so."""
    return packed(member("version", version.encode()))


@dataclass(frozen=True, slots=True)
class Shop:
    """Where images come from; `push` moves a tag to another one."""

    registry: Registry
    layout: Path

    @property
    def host(self) -> str:
        return self.registry.host

    def push(
        self, version: str, tag: str = "latest", *layers: bytes, name: str = "app", config: Any = None
    ) -> str:
        """Let the tag of the repository lead to this version of the image; its digest."""
        made = registry.image(
            self.layout,
            *(layers or (busybox_layer(), version_layer(version))),
            config={**CONFIG, **(config or {})},
        )
        registry.named(self.layout, it=made)
        self.registry.push(self.layout, f"{name}:{tag}", "it")
        return str(made["digest"])

    def reference(self, tag: str = "latest", name: str = "app") -> str:
        return f"{self.host}/{name}:{tag}"

    def image(self, tag: str = "latest", *, called: str = "app", name: str = "app", **more: Any) -> Document:
        """The Image document of a tag."""
        return image(called, oci={"ref": self.reference(tag, name), **more})


@contextlib.contextmanager
def opened(folder: Path, **how: Any) -> Iterator[Shop]:
    """A shop without any image, as long as the block lasts; `how` as for `registry.running`."""
    with registry.running(folder / "registry", **how) as running:
        yield Shop(running, folder / "layout")


def app(name: str, image: str = "app", init: Any = None, **spec: Any) -> Document:
    """A Server document that says nothing of its command, unless `init` does."""
    return {
        "apiVersion": "vsprov/v1",
        "kind": "Server",
        "metadata": {"name": name},
        "spec": {"image": image, **({"init": init} if init else {}), **spec},
    }


def digests(lab: Lab) -> dict[str, str]:
    """{image: digest} as `image ls` tells it."""
    return {item["name"]: item["digest"] for item in listed(lab)}


def listed(lab: Lab) -> list[dict[str, Any]]:
    """The images as `image ls` tells them."""
    items: list[dict[str, Any]] = json.loads(lab.vsprov("image", "ls", "-o", "json").stdout)["items"]
    return items


def layers(lab: Lab) -> list[str]:
    """What lies in the folder of layers, whatever it is."""
    folder = lab.vsprov.root / "layers"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def downloads(lab: Lab) -> dict[str, int]:
    """{name: size} of what lies in the folder of downloads."""
    folder = lab.vsprov.root / "downloads"
    return {path.name: path.stat().st_size for path in folder.iterdir()} if folder.exists() else {}
