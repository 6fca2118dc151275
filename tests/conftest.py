"""What every test shares: features, an instance of one's own, and no skip that is not explained."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import apt_cache, effort, leaks
from tests.features import EXPLAINED, required, requires
from tests.instance import Instance, own_instance

__all__ = ["Instance", "requires"]

# Tests in these folders carry the folder's name as their marker, and run in this order, after the pure ones.
ON_THE_KERNEL = ("kernel", "e2e", "attack", "fault")
FOLDERS = (*ON_THE_KERNEL, "vm")
SHOWN = 20  # failed tests that are named at the end; of more, pytest's own note of the last run is taken
HERE = Path(__file__).resolve().parent


# An automatic run fails today as it fails tomorrow; a long one looks for what none has tried yet.
AUTOMATIC = required() or bool(os.environ.get("CI"))
settings.register_profile("vsprov", effort.examples(), derandomize=AUTOMATIC and not effort.LONG)
settings.load_profile("vsprov")


# What runs in a shell's background has SIGINT ignored, and so would every command that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return max((FOLDERS.index(name) + 1 for name in FOLDERS if item.get_closest_marker(name)), default=0)

    for item in items:
        for parent in item.path.parents:
            if parent.parent == HERE and parent.name in FOLDERS:
                item.add_marker(parent.name)
    items.sort(key=rank)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if any(item.get_closest_marker(name) for name in ON_THE_KERNEL):
        requires("root", "unshare", "namespaces")
    if item.get_closest_marker("vm"):
        requires("root", "vm")
    for marker in item.iter_markers("requires"):
        requires(*marker.args)


def _refuse_unexplained_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """With VSPROV_REQUIRE=1, make a failure of a skip or expected failure that `requires` did not decide."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if required() and report.skipped and not reason.startswith(f"Skipped: {EXPLAINED}"):
        report.outcome = "failed"
        report.longrepr = f"VSPROV_REQUIRE=1: skipped, but not by requires(): {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_unexplained_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_unexplained_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which command repeats just the failures."""
    broken = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
    failed = sorted({report.nodeid for report in broken})
    if not failed:
        return
    in_machine = "tests/vm/run python" if os.environ.get("VSPROV_VM") else ".venv/bin/python"
    which = [shlex.quote(each) for each in failed] if len(failed) <= SHOWN else ["--last-failed"]
    terminalreporter.write_line("")
    terminalreporter.write_line("Repeat the failures alone:")
    terminalreporter.write_line(f"  {in_machine} -m pytest {' '.join(which)}")


@pytest.fixture(scope="session", autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    leaks.OWN.add(f"{tmp_path_factory.getbasetemp()}/")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def apt_environment(shared_folder: Path) -> Iterator[dict[str, str]]:
    with apt_cache.running(shared_folder / "packages") as environment:
        yield environment


@pytest.fixture
def packages(apt_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever installs packages fetches each of them once in this run."""
    for name, text in apt_environment.items():
        monkeypatch.setenv(name, text)


@pytest.fixture
def instance() -> Iterator[Instance]:
    """An instance of this test's own; afterwards nothing of it may be left on the machine."""
    requires("root")
    with own_instance() as made:
        yield made


@pytest.fixture(scope="module")
def shared_instance() -> Iterator[Instance]:
    """One instance for all tests of a module, for servers that are dear to start and that no test changes."""
    requires("root")
    with own_instance() as made:
        yield made


@pytest.fixture
def vsprov(instance: Instance) -> Instance:
    """The command line of `instance`: `vsprov("get", "servers").stdout`."""
    return instance
