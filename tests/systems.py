"""Images with an init of their own, installed from packages once per run, and servers that boot them."""

from __future__ import annotations

import fcntl
import platform
import subprocess
from pathlib import Path

import pytest

from tests.features import requires
from tests.instance import own_instance
from tests.lab import Document, Lab, image, to_yaml, wait_until

SUITE = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
LONGEST = 900.0  # seconds, for packages over a slow line
DEBIAN = (
    "systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "openssh-server", "cron",
    "rsyslog", "sudo", "iproute2", "procps",
)  # fmt: skip


def installed(folder: Path, name: str, packages: tuple[str, ...]) -> Path:
    """A tar archive of a Debian with these packages; the first who wants it makes it."""
    requires("mmdebstrap", "overlay")
    archive = folder / f"{name}.tar"
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            with own_instance() as instance:
                source = {"suite": SUITE, "variant": "minbase", "packages": list(packages)}
                document = to_yaml(image(name, bootstrap=source))
                instance("apply", "-y", "-", input=document, timeout=LONGEST)
                (tree,) = (instance.root / "layers").glob("*/tree")
                part = archive.with_suffix(".part")
                words = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", tree, "-cf", part]
                subprocess.run([*map(str, words), "."], check=True)
                part.rename(archive)
    return archive


@pytest.fixture(scope="session")
def debian_archive(shared_folder: Path, apt_environment: dict[str, str]) -> Path:
    """A Debian with systemd and usual services."""
    with pytest.MonkeyPatch.context() as patch:
        for name, text in apt_environment.items():
            patch.setenv(name, text)
        return installed(shared_folder, "debian", DEBIAN)


def booted(lab: Lab, name: str) -> None:
    """Wait until systemd has started all units of a server; none of them may have failed."""
    state = ""

    def settled() -> bool:
        nonlocal state
        state = lab.run(name, "systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    wait_until(settled)
    assert state == "running", lab.shell(name, "systemctl --failed --no-legend; journalctl -b -p 4")


def debian(archive: Path) -> Document:
    return image("debian", tar={"path": str(archive)})
