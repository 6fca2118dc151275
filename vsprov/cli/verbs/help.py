"""`vsprov help`: what `vsprov VERB --help` prints."""

from __future__ import annotations

import click

from vsprov.cli.verb import Settings, verb


@verb(
    """
vsprov help
vsprov help apply
vsprov help image ls
"""
)
@click.argument("words", metavar="[VERB]", nargs=-1, help="A verb, such as apply or image ls.")
@click.pass_context
def show_help(ctx: click.Context, settings: Settings, words: tuple[str, ...]) -> None:
    """Prints the help of a verb, or the list of all verbs."""
    ctx.find_root().command.main([*words, "--help"], prog_name="vsprov", standalone_mode=False)
