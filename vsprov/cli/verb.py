"""The class of every verb, and the options that every verb takes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from vsprov.cli import complete_paths
from vsprov.errors import UsageError
from vsprov.render.screen import Screen, clean, err, screen_of
from vsprov.store.instance import DEFAULT, Instance

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from vsprov.manifest.load import Manifest

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_FORMATS = ("text", "wide", "name", "yaml", "json", "sarif", "junit")  # of any verb
_INSTANCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class Settings(Struct, frozen=True):
    """The values of the options that every verb takes."""

    instance: Instance
    output: str = "text"
    color: bool = True
    verbose: int = 0
    quiet: bool = False

    @property
    def stdout(self) -> Screen:
        return screen_of(sys.stdout, color=self.color)

    @property
    def stderr(self) -> Screen:
        return screen_of(sys.stderr, color=self.color)

    def warn(self, manifest: Manifest) -> None:
        """Print the manifest's warnings on standard error."""
        from vsprov.render.problems import lines

        if not self.quiet:
            for line in lines(manifest.warnings):
                err(line)

    def note_unwatched(self, unwatched: Mapping[str, tuple[str, ...]]) -> None:
        """Say on standard error which servers no keeper watches, if there are any."""
        from vsprov.engine.look import watched

        if unwatched and not self.quiet:
            err(clean(watched.notice(unwatched)))


def settings(
    outputs: tuple[str, ...] = ("text",),
    *,
    instance: str | None = None,
    root: str | None = None,
    output: str | None = None,
    no_color: bool = False,
    verbose: int = 0,
    quiet: bool = False,
) -> Settings:
    """The settings for a verb with these output formats, the first of which is the default.

    Raises UsageError for an empty or unsupported value.
    """
    for option, given in (("--instance", instance), ("--root", root), ("--output", output)):
        if given == "":
            raise UsageError(f"{option}: empty value", hint=f"omit {option} to use its default")
    if output and output not in outputs:
        raise UsageError(f"-o {output}: unsupported output format", hint=f"choose from {', '.join(outputs)}")
    return Settings(instance_of(instance, root), output or outputs[0], not no_color, verbose, quiet)


def instance_of(name: str | None, root: str | None) -> Instance:
    """The instance that --instance and --root, or else the environment, name. Raises UsageError."""
    name = name or os.environ.get("VSPROV_INSTANCE") or DEFAULT
    if not _INSTANCE_NAME.fullmatch(name):
        raise UsageError(
            f"--instance {name!r}: invalid name", hint="use at most 63 lowercase letters, digits and dashes"
        )
    return Instance(name, os.path.abspath(root or os.environ.get("VSPROV_ROOT") or f"/var/lib/{name}"))


def complete_output(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The words that may follow -o."""
    from click.shell_completion import CompletionItem

    outputs: tuple[str, ...] = getattr(ctx.command, "outputs", _FORMATS)
    words = [CompletionItem(word) for word in outputs if word.startswith(incomplete)]
    if getattr(ctx.command, "to_file", False):
        return complete_paths.files(ctx, param, incomplete) + words
    return words


SETTINGS: tuple[click.Parameter, ...] = (
    click.Option(
        ["--instance"],
        metavar="NAME",
        help="Name of the instance: a separate set of servers, images and state. "
        "[env: VSPROV_INSTANCE; default: vsprov]",
    ),
    click.Option(
        ["--root"],
        metavar="DIR",
        shell_complete=complete_paths.folders,
        help="Directory for images and servers. [env: VSPROV_ROOT; default: /var/lib/INSTANCE]",
    ),
    click.Option(["--output", "-o"], metavar="FORMAT", help="Output format.", shell_complete=complete_output),
    click.Option(
        ["--no-color"], is_flag=True, help="Disable colors. [env: NO_COLOR; FORCE_COLOR enables them]"
    ),
    click.Option(
        ["--verbose", "-v"],
        count=True,
        help="Print more: the steps of a plan, the traceback of an internal error.",
    ),
    click.Option(["--quiet", "-q"], is_flag=True, help="Print only errors and requested output."),
)


class Verb(click.Command):
    """A command that also takes `SETTINGS`, before or after its name, and gets them as `settings`.

    `outputs` are the words that -o takes, the default first. With `to_file`, it takes a file, too.
    """

    to_file = False

    def __init__(self, *given: Any, examples: str, outputs: tuple[str, ...], **named: Any) -> None:
        super().__init__(*given, **named)
        self.outputs = outputs
        self.params += SETTINGS
        self.epilog = "\n  ".join(["\b\nExamples:", *examples.strip().splitlines()])

    def invoke(self, ctx: click.Context) -> Any:
        given = {str(param.name): ctx.params.pop(str(param.name)) for param in SETTINGS}
        before = ctx.find_root().params if ctx.parent else {}
        given = {name: value or before.get(name) if value != "" else "" for name, value in given.items()}
        ctx.params["settings"] = settings(self.outputs, **given)
        return super().invoke(ctx)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        if self.outputs != ("text",):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(f"Outputs (-o): {', '.join(self.outputs)}.")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        own = [param for param in options if param not in SETTINGS]
        for title, params in (("Options", own), ("Options of every verb", SETTINGS)):
            with formatter.section(title):
                formatter.write_dl([row for param in params if (row := param.get_help_record(ctx))])


def verb(
    examples: str, *, outputs: tuple[str, ...] = ("text",), cls: type[Verb] = Verb
) -> Callable[[Callable[..., None]], Verb]:
    """Make a verb of a function, which is called with `settings` and the values of its own options."""
    return click.command(cls=cls, examples=examples, outputs=outputs, context_settings=CONTEXT)
