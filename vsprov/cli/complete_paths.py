"""Completion of paths of the host, which the shell finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def files(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Files. In bash this has to come before words, because it drops those that it has got."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(typed, type="file")]


def folders(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Directories."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(typed, type="dir")]
