"""The version. Scripts and editors ask for it often, so nothing else is loaded for it."""

from __future__ import annotations

import os
import sys

from vsprov import __version__


def print_version() -> None:
    """Print the versions of vsprov, of Python and of the running kernel on one line."""
    kernel = os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"vsprov {__version__} (Python {python}, {kernel.sysname} {kernel.release}, {kernel.machine})")
