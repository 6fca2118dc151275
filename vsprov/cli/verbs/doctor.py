"""`vsprov doctor`: what this host can do."""

from __future__ import annotations

import os
from dataclasses import asdict

import typer

from vsprov.cli.options import settings_of, verb
from vsprov.engine.look import doctor as host
from vsprov.errors import HostError
from vsprov.render.problems import dump
from vsprov.render.screen import err, out
from vsprov.render.tables import Table, text


@verb(
    """
vsprov doctor
vsprov doctor -o json | jq '.findings[] | select(.state != "ok")'
"""
)
def doctor(ctx: typer.Context) -> None:
    """Tries every kernel feature that vsprov rests on and says what is missing, what it costs, and which
    limits of a manifest this host cannot apply. Nothing is changed. Exit code 0 when servers can run
    here, 69 when not.

    Outputs (-o): text, json.
    """
    settings = settings_of(ctx)
    form = settings.choose("text", "json")
    if os.geteuid() != 0:
        err("vsprov: doctor: only root can try most of this; run it with sudo for an answer that counts")
    findings = host.examine(settings.instance)
    fatal = [finding for finding in findings if finding.fatal]
    if form == "json":
        out(dump({"able": not fatal, "findings": [asdict(finding) for finding in findings]}))
    else:
        screen = settings.stdout
        rows = tuple((one.feature, one.state, one.found, one.cost) for one in findings)
        out(text(Table(("FEATURE", "STATE", "FOUND", "WITHOUT IT"), rows), screen))
        out("")
        if fatal:
            out(
                screen.paint(
                    f"Servers cannot run here: {', '.join(one.feature for one in fatal)} missing.", "red"
                )
            )
        else:
            lesser = sum(one.state == "degraded" for one in findings)
            out(f"Servers can run here{f'; {lesser} lesser features are missing' if lesser else ''}.")
    if fatal:
        raise typer.Exit(HostError.exit_code)
