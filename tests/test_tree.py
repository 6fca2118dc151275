"""The tree itself: style, types, the direction of imports, and what is packed into a wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent


def quiet(*command: str | Path) -> None:
    """Fail the test with everything the command said, unless it ends with 0."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_ruff_finds_nothing() -> None:
    quiet(sys.executable, "-m", "ruff", "check", "--quiet", ".")


def test_mypy_finds_nothing() -> None:
    quiet(sys.executable, "-m", "mypy")


def test_imports_keep_to_the_layers() -> None:
    quiet(SCRIPTS / "lint-imports")


def test_a_wheel_holds_every_module_schema_example_and_unit(tmp_path: Path) -> None:
    quiet(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, "."),
    )
    (wheel,) = tmp_path.glob("vsprov-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    data = f"{'-'.join(wheel.name.split('-')[:2])}.data/data/share/vsprov"
    wanted = {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / "vsprov").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for folder, name in (
        ("schemas", "vsprov/schemas"),
        ("manifests/examples", "vsprov/examples"),
        ("packaging", data),
    ):
        wanted |= {
            f"{name}/{path.relative_to(CHECKOUT / folder).as_posix()}"
            for path in (CHECKOUT / folder).rglob("*")
            if path.is_file()
        }
    assert packed == wanted


def test_make_alone_lists_what_can_be_made() -> None:
    listed = subprocess.run(["make"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    for target in (
        "quickstart",
        "test",
        "check",
        "test-kernel",
        "test-vm",
        "test-long",
        "bench",
        "docs",
        "schemas",
        "clean",
    ):
        assert f"make {target} " in listed
