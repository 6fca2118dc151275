"""Images in OCI layouts and in unpacked archives, as skopeo and umoci write them, and as strangers may."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import registry as lab
from tests.archives import member, packed
from vsprov.errors import ImageError
from vsprov.store.registry import oci_documents, untrusted_json
from vsprov.store.registry.layout import LayoutParts, SavedParts, archive_parts
from vsprov.store.registry.oci_documents import Found, Parts

HELLO, WORLD = packed(member("hello", b"hello")), packed(member("world", b"world"))
OTHER = "arm64" if oci_documents.platforms()[0][0] != "arm64" else "amd64"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout with one image of two layers, called `app`."""
    path = tmp_path / "layout"
    return lab.named(path, app=lab.image(path, HELLO, WORLD, config={"Cmd": ["/hello"]}))


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(ImageError) as refused:
        work()
    assert str(refused.value).isprintable()
    return str(refused.value)


def contents(parts: Parts, found: Found) -> list[bytes]:
    """What the files of the layers hold, uncompressed."""
    told: list[tuple[int, int]] = []
    out = []
    for layer in found.manifest.layers:
        path = Path(parts.layer(layer, lambda what, done, total: told.append((done, total))))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == layer.digest
        assert told[-1] == (layer.size, layer.size)
        with open(path, "rb") as file:
            packed_by_gzip = file.read(2) == b"\x1f\x8b"
        command = ["gzip", "-dc"] if packed_by_gzip else ["cat"]
        with open(path, "rb") as file:
            out.append(subprocess.run(command, stdin=file, capture_output=True, check=True).stdout)
    return out


def top(layout: Path) -> dict[str, Any]:
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    return dict(entry)


# ---- layouts


@pytest.mark.parametrize("name", [None, "app"])
def test_the_image_of_a_layout_is_found_by_its_name_or_as_the_only_one(
    layout: Path, name: str | None
) -> None:
    parts = LayoutParts(str(layout), name)
    found = parts.find()
    assert f"sha256:{found.digest}" == top(layout)["digest"]
    assert found.config.command == ("/hello",)
    assert contents(parts, found) == [HELLO, WORLD]


def test_a_name_may_be_written_short_where_it_is_one_of_a_registry(layout: Path) -> None:
    entry = {**top(layout), "annotations": {"io.containerd.image.name": "docker.io/library/app:1"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    assert LayoutParts(str(layout), "app:1").find() == LayoutParts(str(layout)).find()
    assert "it has no single image named 'app:2'" in refusal(LayoutParts(str(layout), "app:2").find)


def test_of_several_images_one_must_be_named_and_the_refusal_lists_them(layout: Path) -> None:
    lab.named(layout, app=top(layout), web=lab.image(layout, WORLD))
    said = refusal(LayoutParts(str(layout)).find)
    assert said == f"{layout}: no image selected: it contains 'app, web'"
    said = refusal(LayoutParts(str(layout), "db").find)
    assert said == f"{layout}:db: it has no single image named 'db': it contains 'app, web'"
    web, app = (LayoutParts(str(layout), name).find() for name in ("web", "app"))
    assert web.manifest.layers == app.manifest.layers[1:]


def test_an_empty_layout_holds_no_image(tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    assert refusal(LayoutParts(str(lab.named(tmp_path / "layout"))).find).endswith("it contains none")


def test_an_index_in_a_layout_leads_to_the_image_for_this_machine(layout: Path) -> None:
    ours, theirs = top(layout), lab.image(layout, HELLO, architecture=OTHER)
    index = lab.index(
        layout,
        {**theirs, "platform": {"os": "linux", "architecture": OTHER}},
        {**ours, "platform": {"os": "linux", "architecture": oci_documents.platforms()[0][0]}},
    )
    found = LayoutParts(str(lab.named(layout, many=index))).find()
    assert (f"sha256:{found.digest}", f"sha256:{found.manifest.digest}") == (index["digest"], ours["digest"])


def test_entries_of_one_name_are_one_image_for_several_machines(layout: Path) -> None:
    ours, theirs = top(layout), lab.image(layout, HELLO, architecture=OTHER)
    entries = [
        {**descriptor, "platform": {"os": "linux", "architecture": architecture}}
        for descriptor, architecture in ((theirs, OTHER), (ours, oci_documents.platforms()[0][0]))
    ]
    for entry in entries:
        entry["annotations"] = {"org.opencontainers.image.ref.name": "app"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    assert f"sha256:{LayoutParts(str(layout), 'app').find().digest}" == ours["digest"]


@pytest.mark.requires("umoci", "busybox")
def test_a_layout_of_umoci_is_read(tmp_path: Path) -> None:
    made, folder = tmp_path / "made", tmp_path / "bin"
    folder.mkdir()
    shutil.copy("/bin/busybox", folder)
    for words in (
        ("init", "--layout", made),
        ("new", "--image", f"{made}:box"),
        ("insert", "--rootless", "--image", f"{made}:box", folder, "/bin"),
        ("config", "--image", f"{made}:box", "--config.entrypoint", "/bin/busybox"),
    ):
        subprocess.run(["umoci", *map(str, words)], check=True, capture_output=True)
    parts = LayoutParts(str(made), "box")
    found = parts.find()
    (content,) = contents(parts, found)
    assert found.config.entrypoint == ("/bin/busybox",)
    assert found.config.diff_ids == (hashlib.sha256(content).hexdigest(),)
    assert Path("/bin/busybox").read_bytes() in content


def test_a_folder_that_is_no_layout_is_told_as_such(tmp_path: Path, layout: Path) -> None:
    assert "oci-layout: open: No such file" in refusal(LayoutParts(str(tmp_path / "none")).find)
    assert "it has no file oci-layout" in refusal(LayoutParts(str(tmp_path)).find)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    assert "expected an OCI layout of version 1, got '2.0.0'" in refusal(LayoutParts(str(layout)).find)


# ---- what is damaged, or hostile


def first_layer(layout: Path) -> tuple[Found, Path]:
    found = LayoutParts(str(layout)).find()
    return found, layout / "blobs/sha256" / found.manifest.layers[0].digest


def read_first(layout: Path, found: Found) -> Callable[[], str]:
    return lambda: LayoutParts(str(layout)).layer(found.manifest.layers[0], lambda *words: None)


def test_a_flipped_byte_and_a_missing_byte_of_a_layer_are_found(layout: Path) -> None:
    found, path = first_layer(layout)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert f"layer: expected sha256:{path.name}, got sha256:" in refusal(read_first(layout, found))
    path.write_bytes(data[:-1])
    said = refusal(read_first(layout, found))
    assert f"layer: expected {len(data)} bytes, got {len(data) - 1}" in said
    path.write_bytes(data)
    assert read_first(layout, found)() == str(path)


def test_a_flipped_byte_of_a_manifest_is_found(layout: Path) -> None:
    path = layout / "blobs/sha256" / top(layout)["digest"].removeprefix("sha256:")
    path.write_bytes(path.read_bytes() + b" ")
    assert f"expected sha256:{path.name}, got sha256:" in refusal(LayoutParts(str(layout)).find)


def test_links_and_what_is_no_file_are_refused_in_the_place_of_a_blob(layout: Path, tmp_path: Path) -> None:
    found, path = first_layer(layout)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert "open: Too many levels of symbolic links" in refusal(read_first(layout, found))
    path.unlink()
    os.mkfifo(path)
    assert "open: not a regular file" in refusal(read_first(layout, found))
    path.unlink()
    path.mkdir()
    assert "open: not a regular file" in refusal(read_first(layout, found))


def test_a_folder_of_blobs_that_is_a_link_is_not_entered(layout: Path, tmp_path: Path) -> None:
    found, _ = first_layer(layout)
    (layout / "blobs").rename(tmp_path / "blobs")
    (layout / "blobs").symlink_to(tmp_path / "blobs")
    assert "open: Not a directory" in refusal(read_first(layout, found))


def test_documents_that_are_too_large_are_not_read(layout: Path) -> None:
    os.truncate(layout / "index.json", untrusted_json.LIMIT + 1)
    assert "document larger than 4 MiB" in refusal(LayoutParts(str(layout)).find)


# ---- archives


def unpacked(archive: Path, target: Path) -> Path:
    target.mkdir()
    subprocess.run(["tar", "-x", "-f", archive, "-C", target], check=True)
    return target


@pytest.fixture
def saved(layout: Path, tmp_path: Path) -> Path:
    """The image as `docker save` writes it, with the tags app:1 and quay.io/team/app:2, unpacked."""
    return by_skopeo(layout, tmp_path, "docker-archive", "app:1", "--additional-tag", "quay.io/team/app:2")


def by_skopeo(layout: Path, tmp_path: Path, kind: str, name: str, *options: str) -> Path:
    archive = tmp_path / f"{kind}.tar"
    subprocess.run(
        ["skopeo", "copy", "--quiet", *options, f"oci:{layout}:app", f"{kind}:{archive}:{name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return unpacked(archive, tmp_path / kind)


@pytest.mark.requires("skopeo")
@pytest.mark.bare_debian
def test_an_archive_in_the_format_of_oci_is_read_as_a_layout(layout: Path, tmp_path: Path) -> None:
    parts = archive_parts(str(by_skopeo(layout, tmp_path, "oci-archive", "app")), "app")
    found = parts.find()
    assert found == LayoutParts(str(layout)).find()
    assert contents(parts, found) == [HELLO, WORLD]


@pytest.mark.requires("skopeo")
@pytest.mark.parametrize("name", [None, "app:1", "docker.io/library/app:1", "quay.io/team/app:2"])
@pytest.mark.bare_debian
def test_an_archive_of_docker_save_is_read(saved: Path, name: str | None) -> None:
    parts = archive_parts(str(saved), name)
    found = parts.find()
    assert found.config.command == ("/hello",)
    assert contents(parts, found) == [HELLO, WORLD]
    assert [layer.digest for layer in found.manifest.layers] == list(found.config.diff_ids)
    assert found.digest == found.manifest.digest


@pytest.mark.requires("skopeo")
def test_a_saved_image_has_the_same_digest_however_its_layers_lie(saved: Path) -> None:
    before = archive_parts(str(saved)).find()
    content = json.loads((saved / "manifest.json").read_text())
    for number, name in enumerate(content[0]["Layers"]):
        # As docker 1.10 to 24 have them: a folder for each layer, and links for those that images share.
        (saved / f"layer{number}").mkdir()
        (saved / name).rename(saved / f"layer{number}/real.tar")
        (saved / f"layer{number}/layer.tar").symlink_to(f"../layer{number}/real.tar")
        content[0]["Layers"][number] = f"layer{number}/layer.tar"
    (saved / "manifest.json").write_text(json.dumps(content))
    parts = archive_parts(str(saved))
    assert parts.find() == before
    assert contents(parts, before) == [HELLO, WORLD]


@pytest.mark.requires("skopeo")
@pytest.mark.bare_debian
def test_layers_of_a_saved_image_may_be_compressed(saved: Path) -> None:
    before = archive_parts(str(saved)).find()
    content = json.loads((saved / "manifest.json").read_text())
    subprocess.run(["gzip", "-n", saved / content[0]["Layers"][0]], check=True)
    content[0]["Layers"][0] += ".gz"
    (saved / "manifest.json").write_text(json.dumps(content))
    parts = archive_parts(str(saved))
    found = parts.find()
    assert (found.digest, found.config) == (before.digest, before.config)
    assert found.manifest.layers[0] != before.manifest.layers[0]
    assert contents(parts, found) == [HELLO, WORLD]


@pytest.mark.requires("skopeo")
def test_an_unknown_tag_of_a_saved_image_is_refused_with_the_tags_there_are(saved: Path) -> None:
    said = refusal(archive_parts(str(saved), "app:3").find)
    assert "it has no single image named 'app:3'" in said and "quay.io/team/app:2" in said


def test_an_archive_of_something_else_is_told_as_such(tmp_path: Path) -> None:
    said = refusal(lambda: archive_parts(str(tmp_path)))
    assert said == f"{tmp_path}: not an image archive: it has neither index.json nor manifest.json"


def save(folder: Path, **changes: Any) -> SavedParts:
    """A saved image of one layer, written by hand, with changes to its entry in manifest.json."""
    folder.mkdir(exist_ok=True)
    (folder / "layer.tar").write_bytes(HELLO)
    diff_ids = [f"sha256:{hashlib.sha256(HELLO).hexdigest()}"]
    (folder / "config.json").write_text(json.dumps({"os": "linux", "rootfs": {"diff_ids": diff_ids}}))
    entry = {"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"], **changes}
    (folder / "manifest.json").write_text(json.dumps([entry]))
    return SavedParts(str(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Layers": ["../outside"]}, "'../outside' leads out of the archive"),
        ({"Layers": ["link"]}, "'link' leads out of the archive"),
        ({"Layers": ["/etc/passwd"]}, "'/etc/passwd' leads out of the archive"),
        ({"Layers": ["."]}, "'.' leads out of the archive"),
        ({"Layers": ["sub/up/outside"]}, "leads out of the archive"),
        ({"Layers": ["loop"]}, "open: Too many levels of symbolic links"),
        ({"Layers": ["fifo"]}, "open: not a regular file"),
        ({"Layers": ["sub"]}, "open: not a regular file"),
        ({"Layers": ["none"]}, "'none': open: No such file or directory"),
        ({"Layers": ["x" * 5000]}, "open: File name too long"),
        ({"Layers": ["a\0b"]}, "which cannot be passed to a program"),
        ({"Layers": []}, "it has 0 layers; 1 to 500 are supported"),
        ({"Layers": ["layer.tar"] * 501}, "it has 501"),
        ({"Layers": ["layer.tar"] * 2}, "its manifest has 2 layers, its configuration checksums for 1"),
        ({"Layers": "layer.tar"}, "Layers is text; expected a list"),
        ({"Config": "../outside"}, "'../outside' leads out of the archive"),
        ({"Config": None}, "leads out of the archive"),
        ({"Config": "layer.tar"}, "not a JSON document"),
        ({"RepoTags": [7]}, "RepoTags contains a number; expected text"),
    ],
)
def test_a_saved_image_that_is_not_sound_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "saved"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(HELLO)
    (folder / "link").symlink_to("../outside")
    (folder / "sub/up").symlink_to("../..")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    said = refusal(save(folder, **changes).find)
    assert said.startswith(f"{folder}: ") and words in said


@pytest.mark.parametrize("content", ["", "{}", "[7]", "[]", "null", "[[]]"])
def test_a_list_of_saved_images_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    parts = save(tmp_path / "saved")
    (tmp_path / "saved/manifest.json").write_text(content)
    assert refusal(parts.find).startswith(f"{tmp_path}/saved: ")


def test_a_layer_that_changes_after_it_was_found_is_refused(tmp_path: Path) -> None:
    parts = save(tmp_path / "saved")
    (layer,) = parts.find().manifest.layers
    (tmp_path / "saved/layer.tar").write_bytes(WORLD)
    assert "layer: expected sha256:" in refusal(lambda: parts.layer(layer, lambda *words: None))
