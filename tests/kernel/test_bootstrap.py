"""Images installed from packages by the real programs, from the mirror of the host's own distribution."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.stores import Store, mounts_below, processes
from vsprov.errors import HostError
from vsprov.model.sources import BootstrapSource, Source
from vsprov.store import images
from vsprov.store.sources import bootstrap

pytestmark = pytest.mark.usefixtures("packages")
SUITE = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
PATIENCE = 120.0  # seconds


def installed(*packages: str, suite: str = SUITE, **more: Any) -> Source:
    return Source(bootstrap=BootstrapSource(suite=suite, packages=packages, **more))


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hide all programs of `bootstrap.PROGRAMS` but one."""
    return lambda program: monkeypatch.setattr(bootstrap, "PROGRAMS", (program,))


def left(store: Store) -> list[str]:
    """What an installation that has ended still has: processes, mounts, files."""
    root = store.instance.root
    running = [f"process {pid}" for pid in processes(root)]
    mounted = [f"mount {point}" for point in mounts_below(root)]
    return running + mounted + store.half_made()


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        pytest.param("mmdebstrap", marks=pytest.mark.requires("mmdebstrap")),
        pytest.param("debootstrap", marks=pytest.mark.requires("debootstrap")),
    ],
)
def test_a_minimal_system_is_installed_and_its_programs_run(
    store: Store, only: Callable[[str], None], program: str
) -> None:
    only(program)
    # One installation with host keys is enough; they take time to create.
    packages = ("hello", "openssh-server") if program == "mmdebstrap" else ("hello",)
    told: set[str] = set()
    thread = threading.Thread(
        target=lambda: store.imported(installed(*packages), told=lambda what, *_: told.add(what))
    )
    thread.start()  # as an apply imports: the program must live as long as the thread, and no longer
    thread.join()
    store.is_whole()
    assert {"install packages", "unpacked"} <= told
    tree = store.layer()
    assert f"VERSION_CODENAME={SUITE}" in (tree / "etc/os-release").read_text()
    said = subprocess.run(["chroot", tree, "hello"], capture_output=True, text=True, check=True)
    assert said.stdout == "Hello, world!\n"
    assert (tree / "usr/bin/su").stat().st_mode & 0o7777 == 0o4755
    assert not list((tree / "dev").glob("sd*"))
    assert [(tree / "etc" / name).read_text() for name in ("hostname", "resolv.conf")] == ["", ""]
    assert (tree / "etc/ssh/sshd_config").exists() == ("openssh-server" in packages)
    assert not list((tree / "etc/ssh").glob("ssh_host_*"))
    unit = tree / "etc/systemd/system/ssh.service.d/host-keys.conf"
    assert unit.exists() == ("openssh-server" in packages)
    assert sorted(os.listdir(Path(store.instance.layers) / store.keys()[0])) == ["listing", "tree"]
    assert left(store) == []
    again = store.resolve(installed(*packages), store.record())
    assert again.digest == store.record().digest


@pytest.mark.requires("mmdebstrap")
def test_a_suite_that_is_nowhere_is_told_in_the_programs_words_and_leaves_nothing(store: Store) -> None:
    said = store.refusal(installed(suite="nosuchsuite"))
    assert said.startswith("mmdebstrap ended with 25: E: The repository ")
    assert "nosuchsuite Release' does not have a Release file" in said
    assert left(store) == []


@pytest.mark.requires("debootstrap")
def test_a_suite_that_debootstrap_does_not_know_is_told_and_leaves_nothing(
    store: Store, only: Callable[[str], None]
) -> None:
    only("debootstrap")
    said = store.refusal(installed(suite="nosuchsuite"))
    assert said.startswith("debootstrap ended with 1: ") and "nosuchsuite" in said
    assert left(store) == []


@pytest.mark.slow
@pytest.mark.requires("mmdebstrap")
def test_a_package_that_is_nowhere_is_told_in_the_programs_words_and_leaves_nothing(store: Store) -> None:
    said = store.refusal(installed("nosuchpackage"))
    assert "E: Unable to locate package nosuchpackage" in said
    assert left(store) == []


def test_a_host_without_such_a_program_is_told_which_to_install(
    store: Store, only: Callable[[str], None]
) -> None:
    only("no-such-bootstrap")
    with pytest.raises(HostError, match="none of no-such-bootstrap is installed") as refused:
        store.imported(installed())
    assert refused.value.hint == "apt install mmdebstrap"
    store.holds_nothing()


class Cancelled(Exception):
    """What a progress callback raises."""


def in_the_middle(store: Store) -> bool:
    """Whether packages are being unpacked: the program has mounted and started much by then."""
    return bool(list(Path(store.instance.layers).glob(".making-*/*strap*/var/lib/dpkg/info/base-files.list")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        pytest.param("mmdebstrap", marks=pytest.mark.requires("mmdebstrap")),
        pytest.param("debootstrap", marks=pytest.mark.requires("debootstrap")),
    ],
)
def test_an_installation_that_is_cancelled_leaves_no_process_no_mount_and_no_file(
    store: Store, only: Callable[[str], None], program: str
) -> None:
    only(program)
    seen: list[int] = []

    def stop(what: str, done: int, total: int) -> None:
        if in_the_middle(store):
            seen.extend(processes(program, store.instance.root))
            raise Cancelled

    with pytest.raises(Cancelled):
        store.imported(installed(), told=stop)
    assert seen
    assert left(store) == []
    store.holds_nothing()


@pytest.mark.slow
@pytest.mark.requires("mmdebstrap")
def test_an_installation_dies_with_the_process_that_wanted_it(store: Store) -> None:
    deadline = time.monotonic() + PATIENCE
    with store.importing(installed()) as importer:
        while not in_the_middle(store):
            assert importer.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        assert processes("mmdebstrap", store.instance.root)
        importer.kill()
    while processes(store.instance.root):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert mounts_below(store.instance.root) == []
    assert images.observe(store.instance) == {}
    (path,) = store.sweep()
    assert Path(path).name.startswith(".making-")
    store.holds_nothing()


@pytest.mark.requires("mmdebstrap")
def test_what_is_asked_for_tells_images_apart_and_a_fresh_look_installs_anew(store: Store) -> None:
    plain = store.resolve(installed()).digest
    others = [
        installed("hello"),
        installed(suite="sid"),
        installed(variant="standard"),
        installed(mirror="http://x/"),
    ]
    digests = {plain, *(store.resolve(source).digest for source in others)}
    assert len(digests) == 5
    assert store.resolve(installed()).digest == plain
    assert store.resolve(installed(), refresh=True).digest not in digests


@pytest.mark.requires("mmdebstrap")
def test_a_mirror_that_does_not_answer_is_told_and_leaves_nothing(store: Store) -> None:
    said = store.refusal(installed(mirror="http://127.0.0.1:1/"))
    assert said.startswith("mmdebstrap ended with 25: E: Failed to fetch http://127.0.0.1:1/")
    assert "Connection refused" in said
    assert left(store) == []
