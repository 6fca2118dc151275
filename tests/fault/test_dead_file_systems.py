"""A bind source on a file system whose server does not answer any more."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.features import requires
from tests.lab import SECONDS, Lab, image, server, to_yaml
from tests.silent_fuse import SilentFuse, silent_fuse
from vsprov.engine.guests import host_sources
from vsprov.kernel import process


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[SilentFuse]:
    requires("fuse")
    with silent_fuse(tmp_path / "remote") as made:
        yield made


def test_a_source_whose_file_system_does_not_answer_is_named_and_nothing_is_stopped(
    lab: Lab, silent: SilentFuse
) -> None:
    lab.converge(image(), server("a"))
    before = lab.init("a")
    mount = {"type": "bind", "source": str(silent.point), "target": "/srv"}
    said = lab.refused(image(), server("a", mounts=[mount]))
    assert f"spec.mounts[0].source: {silent.point}: open: its file system did not answer within 5 s" in said
    assert silent.asked.is_set() and lab.init("a") == before
    assert lab.is_settled(image(), server("a"))  # the lock is free


def test_only_the_sources_that_do_not_answer_are_named(
    silent: SilentFuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_sources, "SECONDS_TO_ANSWER", 0.5)
    sources = [str(tmp_path), str(silent.point), "/no/such", str(silent.point), "/usr"]
    assert host_sources.unanswered(sources) == [str(silent.point)]


@pytest.fixture
def descriptors_above_1023() -> Iterator[None]:
    """The next descriptors that this process opens are above those that select(2) takes."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    process.raise_open_files(2048)
    with ExitStack() as held:
        while (fd := os.open("/dev/null", os.O_RDONLY)) < 1100:
            held.callback(os.close, fd)
        held.callback(os.close, fd)
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_sources_are_probed_by_a_process_with_many_open_files(
    silent: SilentFuse, descriptors_above_1023: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_sources, "SECONDS_TO_ANSWER", 0.5)
    assert host_sources.unanswered([str(silent.point), "/usr"]) == [str(silent.point)]


def test_an_apply_that_waits_for_a_file_system_ends_when_it_is_told_to(
    lab: Lab, silent: SilentFuse, tmp_path: Path
) -> None:
    manifest = tmp_path / "m.yaml"
    mount = {"type": "bind", "source": str(silent.point), "target": "/srv"}
    manifest.write_text(to_yaml(image(), server("a", mounts=[mount])))
    running = subprocess.Popen(
        lab.vsprov.command("apply", "-y", manifest), stderr=subprocess.PIPE, env=lab.vsprov.environment
    )
    assert silent.asked.wait(SECONDS)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=SECONDS)
    assert running.returncode == 143, said
