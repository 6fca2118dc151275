"""The command line: parse, call, print, exit code."""

from __future__ import annotations

import gc
import os
import sys

# A command makes some hundred thousand objects that all live until its end: looking through them again and
# again for garbage took a tenth of the time of a short one.
OBJECTS_BETWEEN_COLLECTIONS = 100_000


def main() -> None:
    """The program `vsprov`; ends the process with the exit code of its verb."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    if sys.argv[1:] in (["version"], ["--version"]):
        # Asked for by scripts and editors at every turn: not worth loading what parses the other verbs.
        from vsprov.cli.version import version

        version()
        sys.exit(0)
    try:
        from vsprov.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the program was still being loaded
        code = 130
    # All is written and closed; taking the interpreter apart object by object would be for nobody.
    os._exit(code)
