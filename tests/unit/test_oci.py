"""The documents of images: what is read from them, and that nothing in them can do harm."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vsprov.errors import ImageError
from vsprov.store.disk import limits
from vsprov.store.disk.limits import Limits
from vsprov.store.registry import oci_documents, untrusted_json
from vsprov.store.registry.oci_documents import Descriptor, ImageConfig, Manifest

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


# ---- what is refused


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not a JSON document"),
        (b"\xff", "not a JSON document"),
        (b"[]", "expected a JSON object, got a list"),
        (b"null", "expected a JSON object, got null"),
        (b"[" * 100_000, "not a JSON document"),
        (b'{"schemaVersion": ' + b"9" * 5000 + b"}", "not a JSON document"),
        (b'{"schemaVersion": 2, "schemaVersion": 2}', "duplicate key"),
        (b'{"schemaVersion": NaN}', "NaN is not a JSON number"),
        (b" " * (untrusted_json.LIMIT + 1), "document larger than 4 MiB"),
        (changed(MANIFEST, "schemaVersion", to=1), "Docker schema 1"),
        (changed(MANIFEST, "schemaVersion", to=True), "expected schemaVersion 2, got True"),
        (changed(MANIFEST, "schemaVersion", to="2"), "expected schemaVersion 2, got '2'"),
        (
            changed(MANIFEST, "mediaType", to="application/vnd.docker.distribution.manifest.v1+prettyjws"),
            "Docker schema 1",
        ),
        (changed(MANIFEST, "mediaType", to=OCI_INDEX), "got neither or both"),
        (changed(MANIFEST, "manifests", to=[]), "got neither or both"),
        (changed(MANIFEST, "mediaType", to=7), "mediaType is a number; expected text"),
        (changed(MANIFEST, "config"), "expected a size in bytes, got None"),
        (changed(MANIFEST, "config", "mediaType", to="application/vnd.cncf.helm.config.v1+json"), "helm"),
        (changed(MANIFEST, "layers", to={}), "layers is an object; expected a list"),
        (changed(MANIFEST, "layers", to=[]), "it has 0 layers; 1 to 500 are supported"),
        (changed(MANIFEST, "layers", to=[MANIFEST["layers"][1]] * 501), "it has 501"),
        (changed(MANIFEST, "layers", 0, to="x"), "layers contains text; expected an object"),
        (changed(MANIFEST, "layers", 0, "size", to=-1), "expected a size in bytes, got -1"),
        (changed(MANIFEST, "layers", 0, "size", to=1.5), "expected a size in bytes, got 1.5"),
        (changed(MANIFEST, "layers", 0, "size", to=True), "expected a size in bytes, got True"),
        (changed(MANIFEST, "layers", 0, "size", to=10**300), "got a number of 997 bits"),
        (changed(MANIFEST, "layers", 0, "size", to=2**62), "are allowed"),
        (changed(MANIFEST, "layers", 0, "digest", to=f"sha256:{A}\n"), "expected a digest sha256:…"),
        (changed(MANIFEST, "layers", 0, "digest", to="sha256:../../x"), "expected a digest sha256:…"),
        (changed(MANIFEST, "layers", 0, "digest", to=f"sha512:{A}{A}"), "expected a digest sha256:…"),
        (changed(MANIFEST, "layers", 0, "mediaType", to=f"{GZIP}+encrypted"), "a layer is encrypted"),
        (changed(MANIFEST, "layers", 0, "mediaType"), "unsupported layer type"),
        (changed(MANIFEST, "layers", 0, "mediaType", to="text/plain"), "unsupported layer type"),
        (changed(MANIFEST, "layers", 0, "mediaType", to=VENDOR), "not in the registry"),
        (changed(MANIFEST, "layers", 0, "mediaType", to=FOREIGN), "not in the registry"),
        (changed(MANIFEST, "layers", 0, "mediaType", to="\ud800"), "which cannot be passed to a program"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_not_sound_is_refused(raw: bytes, words: str) -> None:
    assert words in said(oci_documents.read_manifest, raw, A)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (changed(CONFIG, "config", to=[]), "config is a list; expected an object"),
        (changed(CONFIG, "config", "Env", to=[["x"]]), "Env contains a list; expected text"),
        (changed(CONFIG, "config", "Env", to={"A": "b"}), "Env is an object; expected a list"),
        (changed(CONFIG, "config", "Cmd", to=3), "Cmd is a number; expected a list"),
        (changed(CONFIG, "config", "Cmd", to=[None]), "Cmd contains null; expected text"),
        (
            changed(CONFIG, "config", "Cmd", to=["a\0b"]),
            "Cmd is 'a\\x00b', which cannot be passed to a program",
        ),
        (changed(CONFIG, "config", "User", to=0), "User is a number; expected text"),
        (changed(CONFIG, "rootfs", "diff_ids", to=[A]), "expected a digest sha256:…"),
    ],
)
def test_a_configuration_that_is_not_sound_is_refused(raw: bytes, words: str) -> None:
    assert words in said(oci_documents.read_config, raw)


def test_layers_larger_than_an_image_may_be_are_refused_before_they_are_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LIMITS", Limits(bytes=2_797_540))
    assert said(oci_documents.read_manifest, data(MANIFEST), A) == (
        "its layers have 2797541 bytes; at most 2797540 are allowed"
    )


# ---- whatever they hold

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("\ud800\0"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn, original: dict[str, Any]) -> Any:
    """The document with up to three values somewhere in it replaced, removed or exchanged."""
    whole = {"": copy.deepcopy(original)}
    for _ in range(draw(st.integers(1, 3))):
        here: Any = whole
        key: Any = ""
        while isinstance(here[key], dict | list) and here[key] and draw(st.booleans()):
            here = here[key]
            key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        if draw(st.booleans()) and here is not whole:
            del here[key]
        else:
            here[key] = draw(JSON)
    return whole[""]


def harmless(read: Callable[[], object]) -> None:
    try:
        read()
    except ImageError as error:
        assert str(error).startswith("web: ") and str(error).isprintable()


@given(mutated(MANIFEST) | mutated(INDEX) | mutated(CONFIG) | JSON)
@example({**INDEX, "manifests": [{**INDEX["manifests"][0], "platform": {"os": "\n\x1b[2J"}}]})
def test_documents_of_any_content_are_read_or_refused_in_one_line(content: Any) -> None:
    raw = data(content)
    harmless(lambda: oci_documents.read_manifest(raw, A, "web"))
    harmless(lambda: oci_documents.pick(oci_documents.read_index(raw, "web"), "web"))
    harmless(lambda: oci_documents.check_together(
        oci_documents.read_manifest(data(MANIFEST), A, "web"), oci_documents.read_config(raw, "web"), "web"
    ))  # fmt: skip
    harmless(lambda: oci_documents.follow(raw, A, lambda descriptor: raw, "web"))


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_read_or_refused_in_one_line(raw: bytes) -> None:
    harmless(lambda: oci_documents.read_manifest(raw, A, "web"))
    harmless(lambda: oci_documents.read_config(raw, "web"))
