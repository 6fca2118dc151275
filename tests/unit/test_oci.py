"""The documents of images: what is read from them."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from tests.unit.oci_examples import (
    CONFIG,
    DOCKER_MANIFEST,
    GZIP,
    INDEX,
    MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    A,
    B,
    C,
    changed,
    data,
    said,
)
from vsprov.store.registry import oci_documents
from vsprov.store.registry.oci_documents import Descriptor, ImageConfig, Manifest


def as_machine(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    real = list(os.uname())
    monkeypatch.setattr(os, "uname", lambda: os.uname_result([*real[:4], machine]))


# ---- what is read


def test_a_manifest_names_its_configuration_and_its_layers_lowest_first() -> None:
    assert oci_documents.read_manifest(data(MANIFEST), A, "web") == Manifest(
        digest=A,
        config=Descriptor(OCI_CONFIG, A, 1457),
        layers=(
            Descriptor(GZIP, B, 2_797_541),
            Descriptor("application/vnd.oci.image.layer.v1.tar+zstd", C, 0),
        ),
    )


@pytest.mark.parametrize("media_type", [None, "", OCI_MANIFEST, DOCKER_MANIFEST])
def test_a_manifest_need_not_say_that_it_is_one(media_type: str | None) -> None:
    assert (
        oci_documents.read_manifest(changed(MANIFEST, "mediaType", to=media_type), A, "web").config.digest
        == A
    )


def test_a_configuration_says_how_the_image_is_started() -> None:
    config = oci_documents.read_config(data(CONFIG), "web")
    assert config == ImageConfig(
        entrypoint=("/docker-entrypoint.sh",),
        command=("nginx", "-g", "daemon off;"),
        env={"PATH": "/usr/bin:/bin", "EMPTY": "", "EQUAL": "a=b"},
        user="www-data",
        working_dir="/srv",
        stop_signal="SIGQUIT",
        os="linux",
        architecture=oci_documents.platforms()[0][0],
        diff_ids=(B, C),
    )
    assert config.to_json() == {
        "entrypoint": ["/docker-entrypoint.sh"],
        "command": ["nginx", "-g", "daemon off;"],
        "env": {"PATH": "/usr/bin:/bin", "EMPTY": "", "EQUAL": "a=b"},
        "user": "www-data",
        "workingDir": "/srv",
        "stopSignal": "SIGQUIT",
    }


@pytest.mark.parametrize(
    ("config", "read"),
    [
        ({"Env": ["A", "=x", "", "B=", "C=1", "C=2", "a.b-c=d"]},
         {"env": {"A": "", "B": "", "C": "2", "a.b-c": "d"}}),
        ({"Cmd": "nginx", "Entrypoint": ""}, {"command": ["nginx"]}),
        ({"Cmd": [], "Entrypoint": None}, {}),
        ({"User": "1000:"}, {"user": "1000"}),
        ({"User": ":33"}, {"user": "0:33"}),
        ({"User": ":"}, {}),
        ({"WorkingDir": "srv/../app"}, {"workingDir": "/app"}),
        ({"ExposedPorts": {"odd": None, "80/tcp": {}}, "Volumes": [], "Labels": {"a": 1}}, {}),
    ],
    ids=ascii,
)  # fmt: skip
def test_an_odd_configuration_means_what_it_does_for_docker_and_podman(config: Any, read: Any) -> None:
    raw = changed(CONFIG, "config", to=config)
    assert oci_documents.read_config(raw, "it").to_json() == read


@pytest.mark.parametrize("config", [None, {}, {"Env": None, "Cmd": None, "Labels": None, "User": None}])
def test_what_a_configuration_leaves_open_stays_open(config: object) -> None:
    read = oci_documents.read_config(changed(CONFIG, "config", to=config), "web")
    assert read.to_json() == {}


@pytest.mark.parametrize(
    ("given_", "kept"), [("", ""), ("app", "/app"), ("/a/../../b/", "/b"), ("//srv", "/srv")]
)
def test_a_working_directory_is_made_absolute(given_: str, kept: str) -> None:
    assert (
        oci_documents.read_config(changed(CONFIG, "config", "WorkingDir", to=given_), "web").working_dir
        == kept
    )


# ---- the image for this machine


@pytest.mark.parametrize(
    ("machine", "first"), [("x86_64", "1"), ("armv7l", "3"), ("armv6l", "2"), ("aarch64", "4")]
)
def test_of_an_index_the_image_for_this_machine_is_picked(
    monkeypatch: pytest.MonkeyPatch, machine: str, first: str
) -> None:
    as_machine(monkeypatch, machine)
    assert oci_documents.pick(oci_documents.read_index(data(INDEX), "web"), "web").digest == first * 64


def test_an_index_without_an_image_for_this_machine_is_told_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_machine(monkeypatch, "riscv64")
    refusal = said(oci_documents.pick, oci_documents.read_index(data(INDEX), "web"))
    assert refusal.startswith("no image for linux/riscv64; available: 'linux/amd64, linux/arm/v5,")
    assert "unknown" not in refusal
    empty = oci_documents.read_index(changed(INDEX, "manifests", to=[]), "web")
    assert said(oci_documents.pick, empty) == "no image for linux/riscv64; available: none"


def test_the_only_image_of_an_index_need_not_say_for_which_machine_it_is() -> None:
    alone = {key: value for key, value in INDEX["manifests"][1].items() if key != "platform"}
    assert (
        oci_documents.pick(
            oci_documents.read_index(changed(INDEX, "manifests", to=[alone]), "web"), "web"
        ).digest
        == "2" * 64
    )


@pytest.mark.parametrize(("key", "value"), [("architecture", "sparc"), ("os", "windows")])
def test_an_image_for_another_machine_is_refused(key: str, value: str) -> None:
    manifest = oci_documents.read_manifest(data(MANIFEST), A, "web")
    config = oci_documents.read_config(changed(CONFIG, key, to=value), "web")
    assert value in said(oci_documents.check_together, manifest, config)


# ---- from an index to its image


class Documents:
    """Documents by their digest, and how often each was asked for."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def add(self, content: Any, media_type: str, **more: Any) -> dict[str, Any]:
        """The descriptor of a document that is now held."""
        raw = data(content)
        digest = hashlib.sha256(raw).hexdigest()
        self.held[digest] = raw
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(raw), **more}

    def follow(self, descriptor: dict[str, Any]) -> oci_documents.Found:
        digest = descriptor["digest"].removeprefix("sha256:")
        return oci_documents.follow(self.held[digest], digest, lambda wanted: self.held[wanted.digest], "web")


def image(documents: Documents) -> dict[str, Any]:
    config = documents.add(CONFIG, OCI_CONFIG)
    return documents.add({**MANIFEST, "config": config}, OCI_MANIFEST)


def test_indexes_may_hold_indexes_and_lead_to_one_image() -> None:
    documents = Documents()
    manifest = image(documents)
    inner = documents.add({**INDEX, "manifests": [manifest]}, OCI_INDEX)
    outer = documents.add({**INDEX, "manifests": [inner]}, OCI_INDEX)
    found = documents.follow(outer)
    assert f"sha256:{found.digest}" == outer["digest"]
    assert f"sha256:{found.manifest.digest}" == manifest["digest"]
    assert found.config.diff_ids == (B, C)


def test_indexes_deeper_than_anyone_needs_are_refused() -> None:
    documents = Documents()
    descriptor = image(documents)
    for _ in range(5):
        descriptor = documents.add({**INDEX, "manifests": [descriptor]}, OCI_INDEX)
    assert "its indexes are nested too deep: at most" in said(lambda shown: documents.follow(descriptor))


def test_a_document_that_is_another_than_was_named_is_refused() -> None:
    documents = Documents()
    manifest = image(documents)
    (config,) = (digest for digest in documents.held if not manifest["digest"].endswith(digest))
    documents.held[config] += b" "
    assert f"expected sha256:{config}, got sha256:" in said(lambda shown: documents.follow(manifest))


def test_a_configuration_with_the_sums_of_other_layers_is_refused() -> None:
    documents = Documents()
    config = documents.add({**CONFIG, "rootfs": {"diff_ids": [f"sha256:{B}"]}}, OCI_CONFIG)
    manifest = documents.add({**MANIFEST, "config": config}, OCI_MANIFEST)
    assert said(lambda shown: documents.follow(manifest)) == (
        "its manifest has 2 layers, its configuration checksums for 1"
    )
