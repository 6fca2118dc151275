"""OCI layouts to edit: their digests fit afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import registry
from tests.attack.trap import Trap
from tests.shop import busybox_layer


def layout_of(trap: Trap, *layers: bytes, config: Any = None) -> Path:
    source = trap.source("layout", *(layers or (busybox_layer(),)), config=config)
    return Path(source["oci"]["layout"])


def layer_of(layout: Path) -> Path:
    """The largest blob of a layout."""
    return max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)


def oci_config() -> str:
    return "application/vnd.oci.image.config.v1+json"


def read(layout: Path, which: str) -> Any:
    index = json.loads((layout / "index.json").read_text())
    if which == "index":
        return index
    manifest = json.loads(blob(layout, index["manifests"][0]).read_text())
    return manifest if which == "manifest" else json.loads(blob(layout, manifest["config"]).read_text())


def blob(layout: Path, descriptor: Any) -> Path:
    return layout / "blobs/sha256" / str(descriptor["digest"]).removeprefix("sha256:")


def write(layout: Path, which: str, content: Any) -> None:
    data = json.dumps(content).encode()
    if which == "index":
        (layout / "index.json").write_bytes(data)
    elif which == "manifest":
        point_to(layout, data)
    else:
        manifest = read(layout, "manifest")
        manifest["config"] = registry.blob(layout, data, oci_config())
        point_to(layout, json.dumps(manifest).encode())


def point_to(layout: Path, manifest: bytes) -> None:
    """Let the index of a layout name this manifest."""
    made = registry.blob(layout, manifest, "application/vnd.oci.image.manifest.v1+json")
    registry.named(layout, it=made)


def edit(layout: Path, which: str, change: Any) -> None:
    content = read(layout, which)
    change(content)
    write(layout, which, content)
