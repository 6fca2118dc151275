"""What describes an image, used as a weapon: digests, names and paths that are not what they should be."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import shop
from tests.archives import archive, folder, link, member, packed
from tests.attack.layouts import edit, layer_of, layout_of
from tests.attack.trap import Trap
from tests.lab import image
from tests.shop import app, busybox_layer


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# -- C11, C12: digests


def test_c11_a_layer_with_one_byte_flipped_is_refused_before_it_is_used(trap: Trap) -> None:
    layout = layout_of(trap)
    layer = layer_of(layout)
    flip(layer, 5000)
    said = trap.refused({"oci": {"layout": str(layout)}})
    assert layer.name[:12] in said and "sha256" in said


def test_c11_a_blob_damaged_in_the_registry_is_deleted_here(trap: Trap) -> None:
    source = trap.source("registry", busybox_layer())
    layout = Path(trap.folder / "image1")
    assert trap.served is not None
    flip(trap.served.blob(layer_of(layout).name), 5000)
    said = trap.refused(source)
    assert f"layer: expected sha256:{layer_of(layout).name}, got sha256:" in said
    assert shop.downloads(trap.lab) == {}


def test_c11_an_archive_with_another_sum_than_the_manifest_says_is_not_unpacked(trap: Trap) -> None:
    path = trap.folder / "base.tar"
    path.write_bytes(busybox_layer())
    wanted = hashlib.sha256(b"another").hexdigest()
    said = trap.refused({"tar": {"path": str(path), "sha256": wanted}})
    assert said.endswith(
        f"Image/bad: spec.source: {path}: expected sha256 {wanted}, got "
        f"{hashlib.sha256(busybox_layer()).hexdigest()}"
    )


def test_c11_what_a_layer_unpacks_to_has_to_be_what_the_image_says(trap: Trap) -> None:
    layout = layout_of(trap)
    edit(layout, "config", lambda config: config["rootfs"].update(diff_ids=[f"sha256:{'0' * 64}"]))
    said = trap.refused({"oci": {"layout": str(layout)}})
    assert f"content: expected sha256:{'0' * 64}, got sha256:" in said


PATHS = (
    "../../x",
    "sha256:../../x",
    "sha256:" + "../" * 20 + "etc/passwd",
    "sha256:" + "A" * 64,
    "sha512:" + "a" * 128,
    "sha256:" + "a" * 63,
    "sha256:" + "a" * 64 + "\n",
    "sha256:" + "a" * 64 + "/..",
    "sha256:" + "\u0661" * 64,
)
REFERENCES = (
    "../../x",
    "127.0.0.1:1/../x:1",
    "127.0.0.1:1/x:../y",
    "127.0.0.1:1/x@sha256:../..",
    "file:///etc/passwd",
    "127.0.0.1:1/%2e%2e/x",
    "127.0.0.1:1/x:1?y",
    "127.0.0.1:1/x#y",
    "user@127.0.0.1:1/x",
    "-x",
    "127.0.0.1:99999/x",
)


@pytest.mark.parametrize("where", ["index", "config", "layer", "diff_id"])
def test_c12_a_digest_that_is_a_path_leads_nowhere(trap: Trap, where: str) -> None:
    images = {}
    for number, path in enumerate(PATHS):
        layout = layout_of(trap)
        if where == "index":
            index = json.loads((layout / "index.json").read_text())
            index["manifests"][0]["digest"] = path
            (layout / "index.json").write_text(json.dumps(index))
        elif where == "diff_id":
            edit(layout, "config", lambda config, path=path: config["rootfs"].update(diff_ids=[path]))
        else:
            edit(layout, "manifest", lambda content, path=path: _digest(content, where, path))
        images[f"bad-{number}"] = layout
    for name, said in _all_refused(trap, images).items():
        assert "sha256" in said or "digest" in said, (name, said)


def _digest(manifest: dict[str, Any], where: str, path: str) -> None:
    (manifest["config"] if where == "config" else manifest["layers"][0])["digest"] = path


@pytest.mark.parametrize("digest", PATHS)
def test_c12_a_digest_of_the_manifest_is_one(trap: Trap, digest: str) -> None:
    done = trap.lab.apply(image("bad", oci={"ref": "127.0.0.1:1/x:1", "digest": digest}), check=False)
    assert done.returncode == 65 and "digest" in done.stdout + done.stderr


@pytest.mark.parametrize("ref", REFERENCES)
def test_c12_a_reference_that_is_a_path_or_an_address_is_refused(trap: Trap, ref: str) -> None:
    done = trap.lab.apply(image("bad", oci={"ref": ref}), check=False)
    assert done.returncode == 65, (done.returncode, done.stderr)
    assert "spec.source.oci.ref" in done.stdout + done.stderr


# -- C13, C14, C15


def test_c13_a_root_that_is_a_link_is_refused(trap: Trap) -> None:
    (trap.folder / "rootfs").symlink_to("/")
    assert "symbolic link" in trap.refused({"directory": str(trap.folder / "rootfs")})
    for top in ("", ".", "./"):
        said = trap.refused(trap.source("tar", packed(link(top or ".", "/"), member("etc/x", b""))))
        assert "the root of the archive is not a directory" in said


@pytest.mark.parametrize("blob", ["layer", "folder", "index"])
def test_c13_a_layout_of_links_leads_nowhere(trap: Trap, blob: str) -> None:
    layout = layout_of(trap)
    path = {"layer": layer_of(layout), "folder": layout / "blobs/sha256", "index": layout / "index.json"}[
        blob
    ]
    moved = trap.folder / "moved"
    path.rename(moved)
    path.symlink_to(moved)
    trap.refused({"oci": {"layout": str(layout)}})


@pytest.mark.parametrize("which", ["manifest.json", "cfg.json", "0/layer.tar", "oci-layout", "index.json"])
def test_c13_a_saved_archive_of_links_shows_nothing_of_the_host(trap: Trap, which: str) -> None:
    secret = trap.folder / "secret"
    secret.write_text("the secret of this machine")
    listed = [{"Config": "cfg.json", "RepoTags": ["a:1"], "Layers": ["0/layer.tar"]}]
    docker = {"cfg.json": b"{}", "0/layer.tar": busybox_layer(), "manifest.json": json.dumps(listed).encode()}
    oci = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": b"{}"}
    files = docker if which in docker else oci
    parts = [link(name, str(secret)) if name == which else member(name, data) for name, data in files.items()]
    said = trap.refused({"oci": {"archive": str(archive(trap.folder / "saved", *parts))}})
    assert which in said and "secret" not in said


STEPS = [
    {"write": {"path": "../../etc/p", "content": "x"}},
    {"write": {"path": "/../../etc/p", "content": "x"}},
    {"write": {"path": "/a/../../etc/p", "content": "x"}},
    {"write": {"path": "/proc/sys/kernel/core_pattern", "content": "x"}},
    {"write": {"path": "/x", "content": "x", "owner": "4294967296"}},
    {"write": {"path": "/x", "content": "x", "mode": "u+s"}},
    {"copy": {"source": "{here}", "target": "../../etc/p"}},
    {"copy": {"source": "{here}", "target": "/a/../../../etc"}},
    {"run": {"command": ["/bin/true"], "workingDir": "../.."}},
    {"run": {"command": ["/bin/true"], "user": "root:root:x"}},
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS, ids=[str(each)[:50] for each in STEPS])
def test_c14_a_build_step_names_nothing_outside_the_image(trap: Trap, step: dict[str, Any]) -> None:
    text = json.dumps(step).replace("{here}", str(trap.outside))
    build = {"from": "base", "steps": [json.loads(text)]}
    done = trap.lab.apply(image("base"), image("bad", build=build), check=False)
    assert done.returncode == 65 and "Image/bad: spec.source.build.steps" in done.stdout + done.stderr


def test_c14_a_build_step_that_goes_through_a_link_of_its_base_stays_inside(trap: Trap) -> None:
    outside = str(trap.outside)
    hostile = packed(
        folder(outside.lstrip("/")), link("out", outside), link("up", "../" * 12 + outside.lstrip("/"))
    )
    (trap.folder / "copied").mkdir()
    (trap.folder / "copied/c").write_text("copied")
    steps = [
        {"write": {"path": "/out/w", "content": "written"}},
        {"write": {"path": "/up/u", "content": "written"}},
        {"copy": {"source": str(trap.folder / "copied"), "target": "/out/sub"}},
    ]
    trap.lab.converge(
        image("base", **trap.source("layout", busybox_layer(), hostile)),
        image("built", build={"from": "base", "steps": steps}),
        app("odd", "built", {"command": ["/bin/sleep", "1000"]}),
    )
    inside = trap.lab.root("odd") / outside.lstrip("/")
    assert sorted(os.listdir(inside)) == ["sub", "u", "w"]
    assert (inside / "sub/c").read_text() == "copied"


@pytest.mark.parametrize(
    "fields",
    [
        {"suite": "--help"},
        {"suite": "-v"},
        {"suite": "a b"},
        {"suite": "../../x"},
        {"suite": "bookworm", "mirror": "--setup-hook=touch /tmp/vt-pwned"},
        {"suite": "bookworm", "mirror": "file:///etc\n--x"},
        {"suite": "bookworm", "packages": ["--setup-hook=id"]},
        {"suite": "bookworm", "packages": ["a,b --x"]},
        {"suite": "bookworm", "packages": ["?obsolete", "a b"]},
        {"suite": "bookworm", "components": ["main --x"]},
        {"suite": "bookworm", "variant": "--help"},
    ],
    ids=str,
)
def test_c15_no_field_of_a_bootstrap_becomes_an_option_of_a_program(
    trap: Trap, fields: dict[str, Any]
) -> None:
    done = trap.lab.apply(image("bad", bootstrap=fields), check=False)
    assert done.returncode == 65 and "Image/bad: spec.source.bootstrap" in done.stdout + done.stderr
    assert not Path("/tmp/vt-pwned").exists()


def test_c22_a_credential_helper_is_no_path_and_secrets_are_shown_to_nobody(trap: Trap) -> None:
    home = trap.folder / "home"
    home.mkdir()
    env = {"DOCKER_CONFIG": str(home), "HOME": str(home), "REGISTRY_AUTH_FILE": "", "XDG_RUNTIME_DIR": ""}
    bad = image("bad", oci={"ref": "127.0.0.1:1/x:1"})
    marker = trap.folder / "was-run"
    helper = trap.folder / "docker-credential-x"
    helper.write_text(f"#!/bin/sh\ntouch {marker}\n")
    helper.chmod(0o755)
    for name in (f"../../..{trap.folder}/x", "../x", "", "x y", "-x", "x\n"):
        (home / "config.json").write_text(json.dumps({"credHelpers": {"127.0.0.1:1": name}}))
        done = trap.lab.apply(bad, check=False, env=env)
        assert done.returncode == 1 and "Image/bad: " in done.stderr, (name, done.stderr)
        assert not marker.exists()
    (home / "config.json").write_text(json.dumps({"auths": {"127.0.0.1:1": {"auth": "VE9QU0VDUkVU\x00"}}}))
    done = trap.lab.apply(bad, check=False, env=env)
    assert done.returncode == 1 and "VE9Q" not in done.stderr and "TOPSECRET" not in done.stderr


def _all_refused(trap: Trap, images: dict[str, Path]) -> dict[str, str]:
    """What is said of each image, by one apply of all of them."""
    done = trap.lab.apply(
        *(image(name, oci={"layout": str(path)}) for name, path in images.items()), check=False
    )
    assert done.returncode == 1 and done.stderr.replace("\n", "").isprintable(), done.stderr
    said = {}
    for name in images:
        (said[name],) = [line for line in done.stderr.splitlines() if f"Image/{name}: " in line]
    trap.nothing_left()
    return said
