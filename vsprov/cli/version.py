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


def version_line() -> str:
    """The versions on one line."""
    found = versions()
    return f"vsprov {found['version']} (Python {found['python']}, {found['kernel']}, {found['machine']})"


def print_version() -> int:
    """Print the versions on one line; the exit code."""
    try:
        print(version_line(), flush=True)
    except BrokenPipeError:
        return 141
    except OSError as error:
        print(f"vsprov: write the output: {error.strerror}", file=sys.stderr)
        return 1
    return 0
