"""Documents of images that are not sound: none of them does harm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.oci_examples import (
    CONFIG,
    FOREIGN,
    GZIP,
    INDEX,
    MANIFEST,
    OCI_INDEX,
    VENDOR,
    A,
    changed,
    data,
    said,
)
from vsprov.errors import ImageError
from vsprov.store.registry import oci_documents, untrusted_json
from vsprov.store.trees import limits
from vsprov.store.trees.limits import Limits


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
