"""`vsprov version`, for a command line that has more than these two words."""

from __future__ import annotations

from vsprov.cli.verb import Settings, verb
from vsprov.cli.version import print_version


@verb("vsprov version")
def version(settings: Settings) -> None:
    """Prints the version of vsprov, and on the same line those of Python and of the running kernel."""
    print_version()
