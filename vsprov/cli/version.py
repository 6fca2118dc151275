"""`vsprov version`."""

from __future__ import annotations

import os
import sys

from vsprov import __version__


def version() -> None:
    """Prints the version of vsprov, and on the same line those of Python and of the running kernel."""
    kernel = os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"vsprov {__version__} (Python {python}, {kernel.sysname} {kernel.release}, {kernel.machine})")


EXAMPLES = """
vsprov version
"""
