"""`vsprov doctor`: what this host can do."""

from __future__ import annotations

import os

import click
from msgspec.structs import asdict

from vsprov.cli.verb import Settings, verb
from vsprov.engine.doctor.examine import examine
from vsprov.errors import HostError
from vsprov.render.problems import dump
from vsprov.render.screen import err, out
from vsprov.render.tables import Table, text


@verb(
    """
vsprov doctor
vsprov doctor -o json | jq '.findings[] | select(.state != "ok")'
""",
    outputs=("text", "json"),
)
def doctor(settings: Settings) -> None:
    """Tests every kernel feature that vsprov needs, and lists the missing ones, what they are needed for, and
    the limits of a manifest that this host cannot apply. Changes nothing. Exit code 0 if servers can
    run on this host, 69 if not.
    """
    if os.geteuid() != 0:
        err("vsprov: doctor: most tests need root; run it with sudo for a reliable result")
    findings = examine(settings.instance)
    fatal = [finding for finding in findings if finding.fatal]
    if settings.output == "json":
        out(dump({"able": not fatal, "findings": [asdict(finding) for finding in findings]}))
    else:
        screen = settings.stdout
        rows = tuple((one.feature, one.state, one.found, one.cost) for one in findings)
        out(text(Table(("FEATURE", "STATE", "FOUND", "WITHOUT IT"), rows), screen))
        out("")
        if fatal:
            missing = ", ".join(one.feature for one in fatal)
            out(screen.paint(f"Servers cannot run on this host; missing: {missing}.", "red"))
        else:
            optional = sum(one.state == "degraded" for one in findings)
            lacking = f"; {optional} optional features are missing" if optional else ""
            out(f"Servers can run on this host{lacking}.")
    if fatal:
        raise click.exceptions.Exit(HostError.exit_code)
