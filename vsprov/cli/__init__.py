"""The command line: parse, call, print, exit code."""

from __future__ import annotations

import sys


def main() -> None:
    """The program `vsprov`; ends the process with the exit code of its verb."""
    if sys.argv[1:] in (["version"], ["--version"]):
        # Asked for by scripts and editors at every turn: not worth loading what parses the other verbs.
        from vsprov.cli.version import version

        version()
        return
    try:
        from vsprov.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the program was still being loaded
        code = 130
    sys.exit(code)
