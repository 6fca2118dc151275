"""Images of OCI and docker in the store: what servers see of them, and what their layers share."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import registry as lab
from tests.archives import NET_RAW, folder, hard, link, member, packed
from tests.kernel.stacks import same, unpacked_by_umoci
from tests.kernel.stores import Store, layout
from tests.registry import Registry
from vsprov.errors import ImageError
from vsprov.model.kinds.image import ImageLimits
from vsprov.model.sources import OciSource, Source
from vsprov.store import images
from vsprov.store.layers import layers

CAPABLE = {"SCHILY.xattr.security.capability": NET_RAW.decode("utf-8", "surrogateescape")}
BASE = packed(
    folder("./", mtime=100), folder("etc", mtime=200), member("etc/a", b"a"), member("etc/b", b"b"),
    folder("usr"), folder("usr/bin", mtime=300), link("bin", "usr/bin"), folder("opt"), folder("opt/d"),
    member("opt/d/one", b"1"), member("usr/bin/ping", b"ping", mode=0o755, pax_headers=CAPABLE),
)  # fmt: skip
ALONE = packed(folder("srv", mtime=5), member("srv/app", b"app", uid=1000, gid=1000, mode=0o4750))
STACK = (
    BASE,
    packed(member("etc/.wh.a"), member("bin/sh", b"sh", mode=0o755)),  # through a link of below
    ALONE,
    packed(folder("opt"), folder("opt/d", mtime=7), member("opt/d/.wh..wh..opq"), member("opt/d/two", b"2")),
    packed(hard("usr/bin/ping6", "usr/bin/ping"), member("no/such/parent", b"x")),
    packed(member("srv/.wh.app"), member(".wh.opt")),
    packed(folder("opt", mode=0o700), member("opt/anew", b"anew")),
)


def made(store: Store, *archives: bytes, name: str = "x", **more: Any) -> Source:
    """An image of these layers in the store's layout, which keeps those it has."""
    path = store.folder / "layout"
    known = {}
    if path.exists():
        for entry in json.loads((path / "index.json").read_text())["manifests"]:
            known[entry["annotations"]["org.opencontainers.image.ref.name"]] = entry
    lab.named(path, **{**known, name: lab.image(path, *archives, **more)})
    return layout(path, name)


def like_umoci(store: Store, name: str = "x") -> None:
    """The image is in the store what umoci makes of the one of the layout."""
    theirs = unpacked_by_umoci(store.folder / "layout", name, store.folder / f"bundle-{name}")
    same(store.contents(name), theirs)


def diff_id(archive: bytes) -> str:
    return hashlib.sha256(archive).hexdigest()


# ---- what servers see


@pytest.mark.vm_subset
@pytest.mark.requires("umoci", "overlay")
def test_the_merged_layers_of_an_image_are_what_umoci_unpacks(store: Store) -> None:
    store.imported(made(store, *STACK), "x")
    like_umoci(store)
    store.is_whole()
    assert store.keys("x")[0] == diff_id(BASE) and store.keys("x")[2] == diff_id(ALONE)
    assert not {diff_id(archive) for archive in STACK} & {store.keys("x")[n] for n in (1, 3, 4, 5)}


@pytest.mark.requires("umoci", "overlay")
def test_an_image_that_umoci_repacked_again_and_again_is_what_umoci_unpacks(store: Store) -> None:
    path, bundle = store.folder / "layout", store.folder / "bundle"

    def umoci(*words: str | Path) -> None:
        subprocess.run(["umoci", *map(str, words)], check=True, capture_output=True)

    umoci("init", "--layout", path)
    umoci("new", "--image", f"{path}:x")
    rootfs = bundle / "rootfs"

    def change_first() -> None:
        for name in ("etc/conf.d", "usr/bin", "var/lib/x"):
            (rootfs / name).mkdir(parents=True)
        (rootfs / "etc/conf.d/a").write_text("a")
        (rootfs / "usr/bin/su").write_text("su")
        (rootfs / "usr/bin/su").chmod(0o4755)
        os.link(rootfs / "usr/bin/su", rootfs / "usr/bin/sudo")
        (rootfs / "bin").symlink_to("usr/bin")
        (rootfs / "var/lib/x/y").write_text("y")

    def change_second() -> None:
        (rootfs / "etc/conf.d/a").unlink()
        shutil.rmtree(rootfs / "var/lib")
        (rootfs / "bin").unlink()
        (rootfs / "bin").mkdir()
        (rootfs / "usr/bin/sudo").write_text("changed in place, and with it the other name")

    def change_third() -> None:
        (rootfs / "var/lib").write_text("a file now")
        shutil.rmtree(rootfs / "etc")
        (rootfs / "etc").symlink_to("usr/bin")

    for change in (change_first, change_second, change_third):
        umoci("unpack", "--image", f"{path}:x", bundle)
        change()
        umoci("repack", "--image", f"{path}:x", bundle)
        shutil.rmtree(bundle)
    store.imported(layout(path, "x"), "x")
    assert len(store.keys("x")) == 3
    like_umoci(store)


@pytest.mark.requires("umoci", "overlay")
def test_an_image_that_names_a_layer_twice_can_be_mounted_and_means_the_same(store: Store) -> None:
    # As the builders of docker made them: an empty layer for each line that changes no file.
    empty = packed()
    stacks = {
        "same": (BASE, empty, ALONE, empty),
        "below": (BASE, empty, empty, packed(member("etc/.wh.a"))),
        "again": (ALONE, packed(member("srv/.wh.app")), ALONE, packed(member("srv/more"))),
    }
    for name, stack in stacks.items():
        store.imported(made(store, *stack, name=name), name)
        like_umoci(store, name)
        assert len(set(store.keys(name))) == len(store.keys(name))


@pytest.mark.requires("umoci", "overlay")
def test_an_image_of_128_layers_is_what_umoci_unpacks(store: Store) -> None:
    stack = [BASE]
    for number in range(127):
        members = [member(f"f{number}", b"x")] if number % 2 else [folder("d"), member(f"d/{number}", b"x")]
        if number % 10 == 5:
            members.append(member(f".wh.f{number - 2}"))
        stack.append(packed(*members))
    store.imported(made(store, *stack), "x")
    assert len(store.keys("x")) == 128
    like_umoci(store)


# ---- what is shared


def inodes(store: Store) -> dict[str, int]:
    return {key: os.stat(layers.path(store.instance, key)).st_ino for key in layers.keys(store.instance)}


@pytest.mark.requires("zstd", "umoci", "overlay")
def test_images_share_the_layers_they_have_in_common_however_they_are_compressed(store: Store) -> None:
    store.imported(made(store, BASE, ALONE, name="one"), "one")
    before = inodes(store)
    other = packed(member("other", b"other"))
    store.imported(made(store, BASE, other, ALONE, name="two", compression="zstd"), "two")
    store.imported(made(store, ALONE, name="three", compression=""), "three")
    assert store.keys("one") == (diff_id(BASE), diff_id(ALONE))
    assert store.keys("two") == (diff_id(BASE), diff_id(other), diff_id(ALONE))
    assert store.keys("three") == (diff_id(ALONE),)
    after = inodes(store)
    assert {key: after[key] for key in before} == before
    assert set(after) - set(before) == {diff_id(other)}
    like_umoci(store, "one")
    # The umoci of Debian 12 knows no zstd.
    made(store, BASE, other, ALONE, name="plain")
    same(store.contents("two"), unpacked_by_umoci(store.folder / "layout", "plain", store.folder / "bundle"))


@pytest.mark.requires("umoci", "overlay")
def test_a_layer_that_refers_to_those_below_is_kept_for_each_stack_it_lies_on(store: Store) -> None:
    upper = packed(member("etc/.wh.a"), member("bin/new", b"new"))
    another = packed(folder("etc"), member("etc/a", b"A"), folder("bin"))
    for name, stack in {
        "one": (BASE, upper),
        "two": (another, upper),
        "three": (BASE, ALONE, upper),
        "four": (BASE, upper, ALONE),
    }.items():
        store.imported(made(store, *stack, name=name), name)
        like_umoci(store, name)
    assert len({store.keys("one")[1], store.keys("two")[1], store.keys("three")[2]}) == 3
    assert store.keys("four")[:2] == store.keys("one")


def test_a_layer_goes_with_the_last_image_that_has_it(store: Store) -> None:
    upper = packed(member("etc/.wh.a"))
    store.imported(made(store, BASE, upper, name="one"), "one")
    store.imported(made(store, BASE, ALONE, name="two"), "two")
    images.remove(store.instance, "one")
    assert store.unused().layers == tuple(set(inodes(store)) - set(store.keys("two")))
    images.collect(store.instance, store.unused())
    store.is_whole()
    assert set(inodes(store)) == set(store.keys("two"))
    store.empty()
    store.holds_nothing()


def test_images_imported_at_once_share_blobs_and_layers(store: Store) -> None:
    upper = packed(member("etc/.wh.a"))
    stacks = {
        f"i{n}": (BASE, upper, packed(member(f"f{n}", b"x")), ALONE, packed(member(f"srv/.wh.{n}")))
        for n in range(6)
    }
    wanted = {name: made(store, *stack, name=name) for name, stack in stacks.items()}
    for _ in range(2):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: store.imported(wanted[name], name), stacks))
        store.is_whole()
        assert len({store.keys(name)[:2] for name in stacks}) == 1
        assert len(layers.keys(store.instance)) == 3 + 2 * len(stacks)
        assert not store.unused()
        store.empty()
        store.holds_nothing()


# ---- what is refused


def test_a_layer_that_is_not_what_the_configuration_says_is_refused(store: Store) -> None:
    wrong = f"sha256:{'0' * 64}"
    for stack in ((BASE, ALONE), (BASE, packed(member("etc/.wh.a")))):
        source = made(store, *stack, diff_ids=(f"sha256:{diff_id(BASE)}", wrong))
        said = store.refusal(source)
        assert re.match("layer [0-9a-f]{12}: ", said)
        assert said.endswith(f"content: expected {wrong}, got sha256:{diff_id(stack[1])}")


def test_a_layer_that_would_have_the_key_of_another_does_not_get_it(store: Store) -> None:
    """The layer of one image must not be given to another under a sum that it does not have."""
    store.imported(made(store, BASE, name="good"), "good")
    evil = packed(member("etc/passwd", b"evil"))
    source = made(store, evil, name="evil", diff_ids=(f"sha256:{diff_id(ALONE)}",))
    with pytest.raises(ImageError, match="content: expected sha256:"):
        store.imported(source, "evil")
    assert list(inodes(store)) == [diff_id(BASE)]
    store.imported(made(store, ALONE, name="alone"), "alone")
    with store.merged("alone") as at:
        assert (at / "srv/app").read_bytes() == b"app"


@pytest.mark.parametrize("where", ["layout", "archive"])
def test_a_digest_that_the_image_does_not_have_is_refused(store: Store, where: str) -> None:
    record = store.imported(made(store, BASE), "x")
    right = f"sha256:{record.digest}"
    if where == "layout":
        source = {"layout": str(store.folder / "layout"), "name": "x"}
    else:
        subprocess.run(["tar", "-C", str(store.folder / "layout"), "-cf", str(store.folder / "a.tar"), "."])
        source = {"archive": str(store.folder / "a.tar")}
    store.empty()
    store.imported(Source(oci=OciSource(**source, digest=right)))
    assert store.keys() == (diff_id(BASE),)
    store.empty()
    wrong = f"sha256:{'1' * 64}"
    said = store.refusal(Source(oci=OciSource(**source, digest=wrong)))
    assert said.endswith(f": expected digest {wrong}, got {right}")


def test_an_image_larger_than_its_limits_is_refused(store: Store) -> None:
    source = made(store, BASE, packed(*(member(f"f{n}", b"x") for n in range(100))))
    for limits, why in ((ImageLimits(files=50), "50"), (ImageLimits(size=60), "60")):
        store.limits = limits
        assert re.search(rf"^layer [0-9a-f]{{12}}: .*\b{why}\b", store.refusal(source))


# ---- where they come from


def saved(store: Store, kind: str, name: str) -> Path:
    made(store, BASE, packed(member("etc/.wh.a")), config={"Cmd": ["/x"]})
    path = store.folder / f"{kind}.tar"
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"oci:{store.folder}/layout:x", f"{kind}:{path}:{name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


@pytest.mark.requires("skopeo", "umoci", "overlay")
@pytest.mark.parametrize("packing", ["plain", "gz"])
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_an_archive_that_skopeo_made_is_the_image(store: Store, kind: str, packing: str) -> None:
    path = saved(store, kind, "app:1")
    if packing == "gz":
        (store.folder / "packed").write_bytes(gzip.compress(path.read_bytes()))
        path = store.folder / "packed"
    record = store.imported(Source(oci=OciSource(archive=str(path))), "x")
    assert record.contents is not None and record.contents.config == {"command": ["/x"]}
    like_umoci(store)
    assert os.listdir(store.instance.downloads) == []
    again = store.resolve(Source(oci=OciSource(archive=str(path))), store.record("x"))
    assert (again.digest, again.config) == (record.digest, {"command": ["/x"]})
    store.imported(layout(store.folder / "layout", "x"), "from-layout")
    assert store.keys("from-layout") == store.keys("x")


@pytest.mark.requires("skopeo")
def test_of_an_archive_of_several_images_the_named_one_is_taken(store: Store) -> None:
    path = saved(store, "docker-archive", "app:1")
    store.imported(Source(oci=OciSource(archive=str(path), name="app:1")))
    store.empty()
    said = store.refusal(Source(oci=OciSource(archive=str(path), name="app:2")))
    there = "it contains 'docker.io/library/app:1'"
    assert said == f"docker-archive.tar:app:2: it has no single image named 'app:2': {there}"


@pytest.mark.requires("docker_registry", "skopeo")
def test_images_of_a_registry_imported_at_once_share_blobs_and_layers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.nobody(monkeypatch, store.folder)
    names = [f"i{n}" for n in range(6)]
    with lab.running(store.folder / "registry") as registry:
        for name in names:
            made(store, BASE, packed(member("etc/.wh.a")), packed(member(name, b"x")), ALONE, name=name)
            registry.push(store.folder / "layout", f"{name}:1", name)
        for _ in range(2):
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda name: store.imported(pulled(registry, f"{name}:1"), name), names))
            store.is_whole()
            assert len(layers.keys(store.instance)) == 3 + len(names)
            assert os.listdir(store.instance.downloads) == []
            store.empty()


@pytest.mark.requires("docker_registry", "skopeo", "umoci", "overlay")
def test_an_image_of_a_registry_is_what_umoci_unpacks_and_leaves_no_download(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.nobody(monkeypatch, store.folder)
    made(store, *STACK)
    with lab.running(store.folder / "registry") as registry:
        registry.push(store.folder / "layout", "app:1", "x")
        record = store.imported(pulled(registry, "app:1"), "x")
        like_umoci(store)
        assert os.listdir(store.instance.downloads) == []
        resolved = store.resolve(pulled(registry, f"app@sha256:{record.digest}"))
        assert resolved.digest == record.digest
    again = store.resolve(pulled(registry, "app:1"), store.record("x"))  # without the registry
    assert again.digest == record.digest


def pulled(registry: Registry, name: str) -> Source:
    return Source(oci=OciSource(ref=f"{registry.host}/{name}"))


@pytest.mark.requires("docker_registry", "skopeo")
def test_the_layers_of_a_registry_that_are_there_are_not_fetched_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.nobody(monkeypatch, store.folder)
    made(store, BASE, packed(member("etc/.wh.a")), name="one")
    made(store, BASE, ALONE, name="two")
    with lab.running(store.folder / "registry") as registry:
        for name in ("one", "two"):
            registry.push(store.folder / "layout", f"{name}:1", name)
        store.imported(pulled(registry, "one:1"), "one")
        asked: list[str] = []
        store.imported(pulled(registry, "two:1"), "two", lambda what, *_: asked.append(what))
    blob = hashlib.sha256(lab.compressed(ALONE, "gzip")).hexdigest()
    assert {what for what in asked if what.startswith("download")} == {f"download {blob[:12]}"}


def test_what_the_configuration_says_is_kept_for_servers(store: Store) -> None:
    config = {
        "Entrypoint": ["/init", "--"], "Cmd": ["serve"], "Env": ["PATH=/bin", "A=b=c"], "User": "app:1000",
        "WorkingDir": "srv/../opt", "StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}},
    }  # fmt: skip
    source = made(store, BASE, config=config)
    wanted = {
        "entrypoint": ["/init", "--"], "command": ["serve"], "env": {"PATH": "/bin", "A": "b=c"},
        "user": "app:1000", "workingDir": "/opt", "stopSignal": "SIGQUIT",
    }  # fmt: skip
    assert store.resolve(source).config == wanted
    contents = store.imported(source).contents
    assert contents is not None and contents.config == wanted
    assert store.resolve(source, store.record()).config == wanted
