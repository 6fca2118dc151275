"""The documents of an image, and what is said of changed ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from vsprov.errors import ImageError
from vsprov.store.registry import oci_documents

A, B, C = "a" * 64, "b" * 64, "c" * 64
OCI_MANIFEST, DOCKER_MANIFEST = oci_documents.MANIFESTS
OCI_INDEX, DOCKER_INDEX = oci_documents.INDEXES
OCI_CONFIG, DOCKER_CONFIG = oci_documents.CONFIGS
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
VENDOR = "application/vnd.oci.image.layer.nondistributable.v1.tar"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"

MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST,
    "config": {"mediaType": OCI_CONFIG, "digest": f"sha256:{A}", "size": 1457},
    "layers": [
        {"mediaType": GZIP, "digest": f"sha256:{B}", "size": 2_797_541},
        {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": f"sha256:{C}", "size": 0},
    ],
    "annotations": {"org.opencontainers.image.created": "2024-05-02T10:00:00Z"},
}
CONFIG: dict[str, Any] = {
    "created": "2024-05-02T10:00:00Z",
    "architecture": oci_documents.platforms()[0][0],
    "os": "linux",
    "config": {
        "User": "www-data",
        "ExposedPorts": {"80/tcp": {}},
        "Env": ["PATH=/usr/bin:/bin", "EMPTY=", "EQUAL=a=b"],
        "Entrypoint": ["/docker-entrypoint.sh"],
        "Cmd": ["nginx", "-g", "daemon off;"],
        "WorkingDir": "/srv",
        "Labels": {"maintainer": "someone"},
        "StopSignal": "SIGQUIT",
    },
    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{B}", f"sha256:{C}"]},
    "history": [{"created": "2024-05-02T10:00:00Z", "created_by": "/bin/sh -c #(nop) ADD file"}],
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_INDEX,
    "manifests": [
        {
            "mediaType": OCI_MANIFEST,
            "digest": f"sha256:{digest}",
            "size": 500,
            "platform": {"architecture": architecture, "os": system, **more},
        }
        for digest, system, architecture, more in (
            ("1" * 64, "linux", "amd64", {}),
            ("2" * 64, "linux", "arm", {"variant": "v5"}),
            ("3" * 64, "linux", "arm", {"variant": "v7"}),
            ("4" * 64, "linux", "arm64", {"variant": "v8"}),
            ("5" * 64, "windows", "amd64", {"os.version": "10.0.17763.5696"}),
            ("6" * 64, "unknown", "unknown", {}),
        )
    ],
}


def data(document: Any) -> bytes:
    return json.dumps(document).encode()


def changed(original: dict[str, Any], *path: str | int, to: Any = None) -> bytes:
    """The document with one value replaced."""
    out = here = copy.deepcopy(original)
    for step in path[:-1]:
        here = here[step]  # type: ignore[index]
    here[path[-1]] = to  # type: ignore[index]
    return data(out)


def said(read: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(ImageError) as refused:
        read(*arguments, "web")
    message = str(refused.value)
    assert message.startswith("web: ") and "\n" not in message
    return message.removeprefix("web: ")
