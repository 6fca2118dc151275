"""`vsprov version`, for a command line that has more than these two words."""

from __future__ import annotations

from vsprov.cli.verb import Settings, verb
from vsprov.cli.version import version_line, versions
from vsprov.render.problems import dump
from vsprov.render.screen import out


@verb(
    """
vsprov version
vsprov version -o json
""",
    outputs=("text", "json"),
)
def version(settings: Settings) -> None:
    """Prints the version of vsprov, and on the same line those of Python and of the running kernel."""
    if settings.output == "json":
        out(dump(versions()))
    else:
        out(version_line())
