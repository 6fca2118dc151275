"""Images on their way: pulling, locking, credentials, registries that are slow or gone, a full disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import re
import select
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import registry, shop
from tests.archives import member, packed
from tests.features import requires
from tests.http_servers import Proxy, cutting
from tests.instance import own_instance
from tests.kernel.layers import disk
from tests.lab import SECONDS, Document, Lab, image, to_yaml, wait_until
from tests.registry import PASSWORD
from tests.shop import Shop, app, busybox_layer

MIB = 1 << 20
NOISE = packed(member("noise", random.Random(5).randbytes(4 * MIB)))  # gzip does not make it smaller


@pytest.fixture(scope="module")
def shop_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    requires("docker_registry", "skopeo", "busybox")
    with shop.opened(tmp_path_factory.mktemp("shop")) as made:
        made.push("big", "big", busybox_layer(), NOISE)
        yield made


@pytest.fixture
def market(shop_of_module: Shop) -> Shop:
    """A shop whose tag app:latest leads to version 1; app:big has a layer of 4 MiB."""
    shop_of_module.push("1")
    return shop_of_module


def manifest(folder: Path, *documents: Document) -> Path:
    path = folder / "servers.yaml"
    path.write_text(to_yaml(*documents))
    return path


# -- pull


def test_pull_brings_the_images_of_a_manifest_and_starts_nothing(
    lab: Lab, market: Shop, tmp_path: Path
) -> None:
    path = manifest(tmp_path, market.image(), app("a"))
    lab.vsprov("image", "pull", path)
    assert shop.digests(lab) == {"app": market.push("1")}
    assert lab.processes("a") == []
    assert [change["address"] for change in lab.plan(market.image(), app("a"))["resource_changes"]] == [
        "Server/a"
    ]
    lab.converge(market.image(), app("a"))


def test_pull_of_a_reference_gives_it_a_name(lab: Lab, market: Shop) -> None:
    lab.vsprov("image", "pull", market.reference(), "--name", "mine")
    assert shop.digests(lab) == {"mine": market.push("1")}
    digest = market.push("2")
    lab.vsprov("image", "pull", "mine")
    assert shop.digests(lab) == {"mine": digest}
    again = lab.vsprov("image", "pull", "mine")
    assert "Image/mine: up to date" in again.stderr
    lab.converge(app("a", "mine"))
    assert lab.run("a", "cat", "/version").stdout == "2"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("{ref}",), 64, "an image from a registry needs --name"),
        (("{ref}", "other", "--name", "x"), 64, "is pulled alone"),
        (("{ref}", "--name", "../x"), 65, "name"),
        (("{ref}x", "--name", "x"), 1, "has no tag latestx: it has"),
        (("nothing",), 1, "Image/nothing: not found"),
        (("nothing", "--name", "x"), 64, "--name and --insecure: only with the reference of an image"),
    ],
)
def test_what_cannot_be_pulled_is_told(
    lab: Lab, market: Shop, words: tuple[str, ...], code: int, said: str
) -> None:
    done = lab.vsprov("image", "pull", *(word.format(ref=market.reference()) for word in words), check=False)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done
    assert shop.listed(lab) == [] and shop.layers(lab) == []


# -- lock


def test_what_is_locked_stays_whatever_the_tag_leads_to(lab: Lab, market: Shop, tmp_path: Path) -> None:
    first = market.push("1")
    path = manifest(tmp_path, market.image(), app("a"))
    said = lab.vsprov("image", "lock", path)
    assert said.stdout == f"{market.reference()}  {first}\n"
    lock = tmp_path / "vsprov.lock.yaml"
    assert yaml.safe_load(lock.read_text()) == {"images": {market.reference(): first}}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["servers.yaml", "vsprov.lock.yaml"]
    assert shop.listed(lab) == []  # the store is not touched
    market.push("2")
    lab.vsprov("apply", "-y", path)
    assert shop.digests(lab) == {"app": first}
    for flags in ((), ("--locked",)):
        assert lab.vsprov("plan", "--detailed-exitcode", *flags, path).returncode == 0
    lab.vsprov("apply", "-y", "--locked", path)
    lab.vsprov("image", "pull", path)
    lab.vsprov("apply", "-y", path)
    assert lab.run("a", "cat", "/version").stdout == "1"
    lab.vsprov("image", "lock", path)
    lab.vsprov("apply", "-y", "--locked", path)
    assert lab.run("a", "cat", "/version").stdout == "2"


def test_locked_refuses_what_is_not_in_the_lock_file(lab: Lab, market: Shop, tmp_path: Path) -> None:
    path = manifest(tmp_path, market.image(), app("a"))
    without = lab.vsprov("apply", "-y", "--locked", path, check=False)
    assert without.returncode == 65 and "there is no vsprov.lock.yaml" in without.stdout + without.stderr
    lab.vsprov("image", "lock", path)
    manifest(tmp_path, market.image(), market.image("big", called="big"), app("a"))
    said = lab.vsprov("apply", "-y", "--locked", path, check=False)
    assert said.returncode == 65
    told = said.stdout + said.stderr
    assert f"Image/big: spec.source.oci.ref: {market.reference('big')} is not in {tmp_path}" in told
    assert "hint: create it with: vsprov image lock" in told and "Image/app" not in told
    assert shop.listed(lab) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images: [\n", ":2:1: "),
        ("images: {x: y}\n", "not a lock file"),
        ("- a\n", "not a lock file"),
        ("images:\n  a: sha256:../../x\n", "not a lock file"),
        ("images: &a [*a]\n", ":1:"),
        ("a: 1\na: 2\n", ":2:1: "),
        ("\0", ":1:"),
    ],
)
def test_a_lock_file_that_is_none_is_told_with_its_place(
    lab: Lab, market: Shop, tmp_path: Path, text: str, said: str
) -> None:
    path = manifest(tmp_path, market.image())
    (tmp_path / "vsprov.lock.yaml").write_text(text)
    for words in (("plan", path), ("apply", "-y", "--locked", path)):
        done = lab.vsprov(*words, check=False)
        assert done.returncode == 65
        assert f"{tmp_path}/vsprov.lock.yaml" in done.stdout + done.stderr
        assert said in done.stdout + done.stderr
    assert shop.listed(lab) == []


# -- credentials


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Shop]:
    """A shop that wants a user and a password."""
    requires("docker_registry", "skopeo", "busybox")
    with shop.opened(tmp_path / "guarded", users=True) as made:
        made.push("1")
        yield made


def test_credentials_are_taken_from_where_skopeo_login_leaves_them(
    lab: Lab, guarded: Shop, tmp_path: Path
) -> None:
    env = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"), "HOME": str(tmp_path), "XDG_RUNTIME_DIR": ""}
    documents = (guarded.image(), app("a"))
    said = lab.apply(*documents, check=False, env=env)
    assert said.returncode == 1 and "skopeo login" in said.stderr
    registry.log_in(tmp_path, guarded.host, "no password at all")
    said = lab.apply(*documents, check=False, env=env)
    assert said.returncode == 1 and guarded.host in said.stderr and "no password" not in said.stderr
    assert shop.listed(lab) == []
    registry.log_in(tmp_path, guarded.host)
    lab.apply(*documents, env=env)
    assert lab.run("a", "cat", "/version").stdout == "1"
    assert lab.is_settled(*documents)  # which needs no credentials
    kept = [path for path in lab.vsprov.root.rglob("*.json") if PASSWORD in path.read_text()]
    assert kept == []


# -- what goes wrong on the way


def test_a_registry_that_is_down_is_told_before_anything_is_changed(lab: Lab, market: Shop) -> None:
    lab.converge(market.image(), app("a"))
    before = lab.init("a")
    nowhere = f"127.0.0.1:{registry.free_port()}"
    gone = image("gone", oci={"ref": f"{nowhere}/gone:1"})
    said = lab.refused(market.image(), gone, app("a", hostname="other"), app("b", "gone"), app("c"))
    assert f"Image/gone: spec.source: {nowhere}/gone:1: {nowhere}: Connection refused" in said
    assert lab.init("a") == before and lab.processes("c") == []
    assert lab.is_settled(market.image(), app("a"))


@pytest.mark.parametrize("verb", ["apply", "pull"])
def test_a_pull_that_hangs_is_ended_by_an_interrupt_and_gone_on_with_later(
    lab: Lab, market: Shop, tmp_path: Path, verb: str
) -> None:
    with cutting(market.host, MIB + 300_000, silent=True) as slow:
        path = manifest(tmp_path, *_through(slow.host))
        words = ("apply", "-y") if verb == "apply" else ("image", "pull")
        running = subprocess.Popen(
            lab.vsprov.command(*words, path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=lab.vsprov.environment, text=True,
        )  # fmt: skip
        wait_until(lambda: _part(lab, market) >= MIB)
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=SECONDS)
    assert running.returncode == 130 and "Traceback" not in said, said
    assert shop.layers(lab) == [] and shop.listed(lab) == []
    assert _part(lab, market) >= MIB
    with _at(slow.host, market.host) as again:
        lab.vsprov(*words, path)
    assert any(re.fullmatch(r"[0-9]{7}-", asked) for asked in again.ranges), again.ranges
    assert shop.downloads(lab) == {}
    assert lab.vsprov("image", "verify").returncode == 0


def _part(lab: Lab, market: Shop) -> int:
    """How much has come of the large layer, while it is on its way."""
    largest = max((market.layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    return shop.downloads(lab).get(f"{largest.name}.part", 0)


def _through(host: str) -> tuple[Document, Document]:
    return image("big", oci={"ref": f"{host}/app:big"}), app("a", "big")


@contextlib.contextmanager
def _at(host: str, upstream: str) -> Iterator[Proxy]:
    """A proxy that cuts nothing, where another one was."""
    with cutting(upstream, 1 << 40, port=int(host.partition(":")[2])) as proxy:
        yield proxy


def test_a_full_disk_is_told_and_harms_no_other_server(market: Shop, tmp_path: Path) -> None:
    requires("loop", "ext4", "mkfs_ext4")
    with disk("ext4", tmp_path / "small", 24 * MIB, "-m", "0") as folder, own_instance(folder) as instance:
        lab = Lab(instance)
        lab.converge(market.image(), app("a"))
        before = lab.init("a")
        ballast = folder / "ballast"
        status = os.statvfs(folder)
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_bsize - 6 * MIB)
        documents = (market.image(), market.image("big", called="big"), app("a"), app("b", "big"))
        said = lab.refused(*documents)
        assert "Image/big: " in said and "No space left on device" in said
        assert "Server/b" in said  # it says that this one could not be made
        assert lab.init("a") == before and lab.is_settled(market.image(), app("a"))
        assert not [name for name in shop.layers(lab) if not re.fullmatch("[0-9a-f]{64}", name)]
        ballast.unlink()
        lab.converge(*documents)
        assert lab.init("a") == before
        lab.vsprov("destroy", "--all", "-y")


# -- what is seen of it


def test_without_a_terminal_progress_is_plain_lines(lab: Lab, market: Shop) -> None:
    said = lab.apply(market.image("big", called="big"), app("a", "big"))
    lines = said.stderr.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["Image/big: created", "Server/a: created"]
    assert "\x1b" not in said.stdout + said.stderr and "\r" not in said.stdout + said.stderr


def test_on_a_terminal_bars_appear_and_go_away(lab: Lab, market: Shop, tmp_path: Path) -> None:
    path = manifest(tmp_path, market.image("big", called="big"), app("a", "big"))
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        lab.vsprov.command("apply", "-y", path),
        stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        env={**lab.vsprov.environment, "TERM": "xterm", "NO_COLOR": "", "LC_ALL": "C.UTF-8"},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(follower)
    raw = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
        while select.select([leader], [], [], SECONDS)[0]:
            raw += os.read(leader, 65536)
    os.close(leader)
    assert running.wait(SECONDS) == 0, raw
    shown = raw.decode()
    assert "\u2501" in shown and re.search(r"Image/big \w+", shown)  # a bar
    assert "\x1b[2K" in shown  # which was taken away
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") >= 1  # the cursor is back
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.rpartition("\x1b[2K")[2])
    assert "\u2501" not in last
    assert "Image/big: created" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
