"""The version. Scripts and editors ask for it often, so nothing else is loaded for it."""

from __future__ import annotations

import os
import sys

from vsprov import __version__


def versions() -> dict[str, str]:
    """The versions of vsprov, of Python and of the running kernel, and the machine's architecture."""
    kernel = os.uname()
    return {
        "version": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "kernel": f"{kernel.sysname} {kernel.release}",
        "machine": kernel.machine,
    }


def print_version() -> None:
    """Print the versions on one line."""
    found = versions()
    print(f"vsprov {found['version']} (Python {found['python']}, {found['kernel']}, {found['machine']})")
