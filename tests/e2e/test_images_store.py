"""The verbs about the image store, with images that share layers and servers that run on them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import shop
from tests.archives import member, packed
from tests.features import requires
from tests.lab import Lab, busybox_image, image
from tests.shop import Shop, app, busybox_layer, version_layer
from tests.trees import listing


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """app:1 and app:2, which share the layer with busybox."""
    requires("docker_registry", "skopeo", "busybox")
    with shop.opened(tmp_path_factory.mktemp("shop")) as made:
        made.push("1", "1")
        made.push("2", "2", busybox_layer(), version_layer("2"), packed(member("more", bytes(300_000))))
        yield made


@pytest.fixture
def stocked(lab: Lab, market: Shop) -> Lab:
    """Server a on image one, and image two on which nothing is."""
    lab.converge(market.image("1", called="one"), market.image("2", called="two"), app("a", "one"))
    return lab


def item(lab: Lab, name: str) -> dict[str, Any]:
    return next(each for each in shop.listed(lab) if each["name"] == name)


def used(path: Path) -> int:
    """What a layer takes on disk, without the directories of the store around it."""
    return sum(each.lstat().st_blocks * 512 for each in (path / "tree").rglob("*")) if path.exists() else 0


# -- ls, get


def test_ls_tells_what_images_share_and_who_uses_them(stocked: Lab) -> None:
    one, two = item(stocked, "one"), item(stocked, "two")
    assert one["usedBy"] == ["Server/a"] and two["usedBy"] == []
    assert one["layers"] == 2 and two["layers"] == 3
    assert one["shared"] == two["shared"] >= len(busybox_layer()) // 2
    assert 300_000 <= two["private"] < 400_000 and one["private"] < 100_000
    assert two["size"] == two["shared"] + two["private"]
    assert one["digest"] != two["digest"]
    lines = stocked.vsprov("image", "ls").stdout.splitlines()
    assert lines[0].split() == ["NAME", "SOURCE", "DIGEST", "SIZE", "SHARED", "PRIVATE", "USED", "BY"]
    assert [line.split()[0] for line in lines[1:]] == ["one", "two"]
    assert lines[1].endswith("  a") and lines[2].endswith("  -")
    assert stocked.vsprov("image", "ls", "-o", "name").stdout == "Image/one\nImage/two\n"
    wide = stocked.vsprov("image", "ls", "-o", "wide").stdout.splitlines()
    assert wide[0].split()[-2:] == ["LAYERS", "SET"] and wide[2].split()[-2:] == ["3", "default"]


def test_one_digest_has_one_form_in_every_output(stocked: Lab, market: Shop) -> None:
    full, other = item(stocked, "one")["digest"], item(stocked, "two")["digest"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", full)

    def output(*words: str) -> Any:
        return json.loads(stocked.vsprov(*words, "-o", "json").stdout)

    assert output("get", "image", "one")["status"]["digest"] == full
    assert output("get", "server", "a")["status"]["image"] == full
    for words in (("get", "images"), ("image", "ls")):
        assert full.removeprefix("sha256:")[:12] in stocked.vsprov(*words).stdout.split()

    moved = (market.image("2", called="one"), market.image("2", called="two"), app("a", "one"))
    changes = stocked.differences(*moved)
    assert changes["Image/one /spec/source"][:2] == (full, other)
    assert changes["Server/a /spec/image"][:2] == (f"one@{full}", f"one@{other}")


def test_the_store_holds_what_images_share_once(stocked: Lab) -> None:
    assert len(shop.layers(stocked)) == 4  # busybox, version 1, version 2, more
    assert shop.downloads(stocked) == {}


def test_get_shows_what_a_server_has_written_and_df_works_inside(stocked: Lab) -> None:
    def disk() -> str:
        lines = stocked.vsprov("get", "servers", "-o", "wide").stdout.splitlines()
        return lines[1].split()[lines[0].split().index("DISK")]

    assert disk().endswith("Ki")
    stocked.vsprov("exec", "--user", "0", "a", "--", "dd", "if=/dev/zero", "of=/big", "bs=1024", "count=5120")
    assert 5120 <= int(disk().removesuffix("Ki")) < 5200
    words = stocked.run("a", "df", "-k", "/").stdout.splitlines()[-1].split()
    assert words[-1] == "/" and int(words[1]) > int(words[2]) > 0


# -- rm, prune


def test_rm_refuses_an_image_in_use_and_then_removes_none(stocked: Lab) -> None:
    before = shop.layers(stocked)
    said = stocked.vsprov("image", "rm", "two", "one", check=False)
    assert said.returncode == 1
    assert said.stderr == (
        "vsprov: Image/one: cannot be removed: used by Server/a\n"
        "  hint: remove those objects first, or together with it\n"
    )
    assert [each["name"] for each in shop.listed(stocked)] == ["one", "two"]
    assert shop.layers(stocked) == before


def test_rm_of_a_misspelt_name_suggests_the_right_one_and_removes_none(stocked: Lab) -> None:
    said = stocked.vsprov("image", "rm", "two", "tow", check=False)
    assert said.returncode == 1
    assert said.stderr == "vsprov: Image/tow: not found\n  hint: did you mean two?\n"
    assert len(shop.listed(stocked)) == 2
    assert stocked.vsprov("image", "rm", check=False).returncode == 64


def test_rm_frees_what_only_that_image_had(stocked: Lab) -> None:
    private = item(stocked, "two")["private"]
    before = sum(used(stocked.vsprov.root / "layers" / name) for name in shop.layers(stocked))
    done = stocked.vsprov("image", "rm", "image/two", "-o", "json")
    assert json.loads(done.stdout)["done"] == ["Image/two"]
    after = sum(used(stocked.vsprov.root / "layers" / name) for name in shop.layers(stocked))
    assert 0 <= private - (before - after) <= 64 << 10  # directories and listings
    assert [each["name"] for each in shop.listed(stocked)] == ["one"]
    assert stocked.run("a", "cat", "/version").stdout == "1"


def test_prune_removes_what_nothing_needs_and_dry_run_only_says_so(stocked: Lab) -> None:
    left = stocked.vsprov.root / "downloads" / ("f" * 64 + ".part")
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(bytes(100_000))
    before = shop.layers(stocked)
    said = stocked.vsprov("image", "prune", "--dry-run").stdout
    assert said.startswith(f"download {left.name} would be removed\n") and said.endswith(" would be freed\n")
    assert left.exists() and shop.layers(stocked) == before
    told = json.loads(stocked.vsprov("image", "prune", "--dry-run", "--all", "-o", "json").stdout)
    assert told["images"] == ["two"] and len(told["layers"]) == 2 and told["dryRun"] is True
    assert told["bytes"] > 400_000
    assert shop.layers(stocked) == before and len(shop.listed(stocked)) == 2

    stocked.vsprov("image", "prune")
    assert not left.exists() and shop.layers(stocked) == before and len(shop.listed(stocked)) == 2
    assert stocked.vsprov("image", "prune", "--all", input="n\n", check=False).returncode != 0
    assert len(shop.listed(stocked)) == 2
    done = json.loads(stocked.vsprov("image", "prune", "--all", "-y", "-o", "json").stdout)
    assert done["layers"] == told["layers"]
    assert [each["name"] for each in shop.listed(stocked)] == ["one"]
    assert set(before) - set(shop.layers(stocked)) == set(done["layers"])
    assert stocked.vsprov("image", "prune", "--all", "-y").stdout == "0 freed\n"
    assert stocked.run("a", "cat", "/version").stdout == "1"


# -- verify


def test_verify_names_file_and_layer_of_one_flipped_byte(stocked: Lab) -> None:
    good = stocked.vsprov("image", "verify")
    assert good.stdout == "one: ok\ntwo: ok\n"
    root = stocked.vsprov.root / "layers"
    (layer,) = (name for name in shop.layers(stocked) if (root / name / "tree/more").exists())
    damaged = root / layer / "tree/more"
    status = damaged.stat()
    with open(damaged, "r+b") as file:
        file.seek(123_456)
        file.write(b"\x01")
    os.utime(damaged, ns=(status.st_atime_ns, status.st_mtime_ns))
    said = stocked.vsprov("image", "verify", check=False)
    assert said.returncode == 1
    assert said.stdout == (f"one: ok\ntwo: DAMAGED\n  layer {layer[:12]}: more: content differs\n")
    assert stocked.vsprov("image", "verify", "one").returncode == 0
    told = stocked.vsprov("image", "verify", "two", "-o", "json", check=False)
    assert told.returncode == 1 and json.loads(told.stdout)["two"]["ok"] is False
    assert stocked.vsprov("image", "verify", "tow", check=False).stderr.endswith("did you mean two?\n")


def layer_with(lab: Lab, name: str) -> Path:
    (found,) = (path for path in (lab.vsprov.root / "layers").glob(f"[0-9a-f]*/tree/{name}"))
    return found


def as_hinted(lab: Lab) -> None:
    """Verify, and run the command that the hint gives."""
    said = lab.vsprov("image", "verify", check=False).stderr
    hint = re.search("hint: vsprov (image pull .*) imports the damaged layers again\n", said)
    assert hint
    lab.vsprov(*hint[1].split())


def test_what_verify_finds_is_mended_as_its_hint_says(stocked: Lab, market: Shop) -> None:
    more = layer_with(stocked, "more")
    more.unlink()
    documents = (market.image("1", called="one"), market.image("2", called="two"), app("a", "one"))
    assert stocked.is_settled(*documents)
    before = shop.digests(stocked), shop.layers(stocked), stocked.init("a")
    as_hinted(stocked)
    assert more.read_bytes() == bytes(300_000)
    assert (shop.digests(stocked), shop.layers(stocked), stocked.init("a")) == before
    assert stocked.vsprov("image", "verify").stdout == "one: ok\ntwo: ok\n"
    assert stocked.is_settled(*documents)


def test_a_running_server_keeps_its_damaged_layer_until_it_restarts(stocked: Lab, market: Shop) -> None:
    """What is in a lower layer of an overlay must not change or vanish below a running server."""
    documents = (market.image("1", called="one"), market.image("2", called="two"), app("a", "one"))
    busybox = layer_with(stocked, "bin/busybox")
    digests, before = shop.digests(stocked), stocked.init("a")
    with open(busybox, "ab") as file:
        file.write(b"damaged")
    as_hinted(stocked)
    assert shop.digests(stocked) == digests and stocked.init("a") == before
    assert stocked.run("a", "tail", "-c", "7", "/bin/busybox").stdout == "damaged"
    assert stocked.vsprov("image", "verify").returncode == 0
    found = stocked.differences(*documents)
    assert {cost for _, _, cost in found.values()} == {"restart"}
    assert {address.split()[0] for address in found} == {"Server/a"}
    stocked.converge(*documents)
    assert stocked.init("a") != before
    assert stocked.run("a", "tail", "-c", "7", "/bin/busybox").stdout != "damaged"
    assert [name for name in os.listdir(stocked.vsprov.root / "layers") if len(name) != 64] == []


def test_an_apply_mends_what_verify_has_found_and_restarts_the_servers_on_it(
    lab: Lab, tmp_path: Path
) -> None:
    requires("busybox")
    build = {"from": "base", "steps": [{"run": "echo made >/made"}]}
    documents = (
        image("base", directory=str(busybox_image(tmp_path / "base"))), image("built", build=build),
        app("a", "built", {"command": ["/bin/sleep", "1000"]}),
    )  # fmt: skip
    lab.converge(*documents)
    layer_with(lab, "made").write_text("changed")
    layer_with(lab, "bin/busybox").with_name("new").write_text("new")
    said = lab.vsprov("image", "verify", check=False).stdout
    assert said.count("DAMAGED") == 2 and "made: has 7 bytes, had 5" in said
    assert {item(lab, name)["problem"][-10:] for name in ("base", "built")} == {"is damaged"}
    lab.converge(*documents)
    assert lab.run("a", "cat", "/made").stdout == "made\n"
    assert lab.vsprov("image", "verify").returncode == 0
    # What was mended by other means is noticed as well.
    made = layer_with(lab, "made")
    when = made.stat().st_mtime_ns
    made.chmod(0o600)
    assert lab.vsprov("image", "verify", check=False).returncode == 1 and lab.differences(*documents)
    made.chmod(0o644)
    assert made.stat().st_mtime_ns == when
    assert lab.vsprov("image", "verify").returncode == 0 and lab.is_settled(*documents)


# -- dedupe


def test_dedupe_makes_equal_files_one_while_servers_run_on_them(lab: Lab, tmp_path: Path) -> None:
    requires("busybox")
    first = busybox_image(tmp_path / "first")
    busybox_image(tmp_path / "second")
    program = tmp_path / "second/bin/busybox"
    status = (first / "bin/busybox").stat()
    os.utime(program, ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "second/note").write_text("another image")
    documents = (
        image("first", directory=str(first)), image("second", directory=str(tmp_path / "second")),
        app("a", "first", {"command": ["/bin/sleep", "1000"]}),
        app("b", "second", {"command": ["/bin/sleep", "1000"]}),
    )  # fmt: skip
    lab.converge(*documents)
    trees = [lab.vsprov.root / "layers" / name / "tree" for name in shop.layers(lab)]
    before, inits = [_seen(tree) for tree in trees], lab.inits("a", "b")
    assert trees[0].joinpath("bin/busybox").stat().st_ino != trees[1].joinpath("bin/busybox").stat().st_ino
    would = json.loads(lab.vsprov("image", "dedupe", "--dry-run", "-o", "json").stdout)
    assert would["files"] >= 1 and would["bytes"] >= status.st_size
    assert [_seen(tree) for tree in trees] == before
    assert trees[0].joinpath("bin/busybox").stat().st_ino != trees[1].joinpath("bin/busybox").stat().st_ino
    done = json.loads(lab.vsprov("image", "dedupe", "-o", "json").stdout)
    assert (done["files"], done["bytes"], done["failures"]) == (would["files"], would["bytes"], [])
    assert trees[0].joinpath("bin/busybox").stat().st_ino == trees[1].joinpath("bin/busybox").stat().st_ino
    assert [_seen(tree) for tree in trees] == before
    assert lab.inits("a", "b") == inits
    assert lab.run("a", "echo", "works").stdout == lab.run("b", "echo", "works").stdout == "works\n"
    lab.run("b", "rm", "/bin/busybox")
    assert lab.run("a", "echo", "works").stdout == "works\n"
    assert lab.vsprov("image", "verify").returncode == 0
    assert lab.is_settled(*documents)
    assert {each["name"]: each["shared"] >= status.st_size for each in shop.listed(lab)} == {
        "first": True, "second": True,
    }  # fmt: skip


def _seen(tree: Path) -> dict[str, Any]:
    """Names and what is of interest of them, but for which are one file."""
    return {name: found._replace(same_as="") for name, found in listing(tree).items()}


# -- help, completion


@pytest.mark.parametrize("verb", ["ls", "pull", "rm", "prune", "verify", "dedupe", "lock"])
def test_every_verb_has_help_with_an_example(lab: Lab, verb: str) -> None:
    said = lab.vsprov("image", verb, "--help").stdout
    assert f"vsprov image {verb}" in said and "Usage: " in said
    assert f"\n  {verb} " in lab.vsprov("image", "--help").stdout


@pytest.mark.parametrize("verb", ["rm", "verify"])
def test_names_of_images_are_completed(stocked: Lab, verb: str) -> None:
    words = f"vsprov image {verb} t"
    env = {"_VSPROV_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "3"}
    env["VSPROV_ROOT"] = str(stocked.vsprov.root)
    done = subprocess.run(
        stocked.vsprov.command()[:3], env=stocked.vsprov.environment | env, capture_output=True, text=True
    )
    assert done.stdout.split() == ["plain,two"]
