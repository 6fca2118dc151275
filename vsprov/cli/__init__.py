"""The command line: parse, call, print, exit code."""

from __future__ import annotations

import gc
import os
import sys

# A command creates some hundred thousand objects that live until it ends: collecting garbage among them more
# often took a tenth of the time of a short command.
OBJECTS_BETWEEN_COLLECTIONS = 100_000


def fill_standard_descriptors() -> None:
    """Open /dev/null for the standard streams that the caller has closed.

    Otherwise the next file that is opened, such as a server's record, gets one of their numbers, and what a
    child process prints ends up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def main() -> None:
    """The program `vsprov`; ends the process with the exit code of its verb."""
    fill_standard_descriptors()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    if sys.argv[1:] in (["version"], ["--version"]):
        from vsprov.cli.version import print_version

        os._exit(print_version())
    try:
        from vsprov.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the program was still being loaded
        code = 130
    # Everything is written and closed; freeing the interpreter's objects one by one would only take time.
    os._exit(code)
