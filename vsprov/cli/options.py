"""Options several verbs share: functions with typer's signatures that return what the verbs work with."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from vsprov.errors import UsageError
from vsprov.render.screen import Screen, screen_of
from vsprov.store.instance import DEFAULT, Instance

if TYPE_CHECKING:
    from vsprov.engine.desired.inputs import Inputs

_FORMATS = ("text", "wide", "name", "yaml", "json", "sarif", "junit")
_INSTANCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Settings:
    """What every verb is told: which instance, and how to show things. `output` is "" when not given."""

    instance: Instance
    output: str = ""
    color: bool = True
    verbose: int = 0
    quiet: bool = False

    def choose(self, *formats: str) -> str:
        """The output format among those the verb has, the first by default; raises UsageError for another."""
        chosen = self.output or formats[0]
        if chosen not in formats:
            raise UsageError(
                f"-o {chosen}: not an output of this verb", hint=f"choose one of {', '.join(formats)}"
            )
        return chosen

    @property
    def stdout(self) -> Screen:
        return screen_of(sys.stdout, color=self.color)

    @property
    def stderr(self) -> Screen:
        return screen_of(sys.stderr, color=self.color)


def outputs(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    """The words that may follow -o, to complete them."""
    return list(getattr(ctx.command, "outputs", _FORMATS))


def settings(
    instance: Annotated[
        str | None,
        typer.Option(
            "--instance",
            metavar="NAME",
            help="Whose servers: the cgroup they are below. [env: VSPROV_INSTANCE; default: vsprov]",
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="DIR",
            help="Where images and servers are kept. [env: VSPROV_ROOT; default: /var/lib/INSTANCE]",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FORMAT",
            help="How to show it: text, json, yaml, name, wide, as the verb has.",
            autocompletion=outputs,
        ),
    ] = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colors. [env: NO_COLOR]")] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Say more: each step of a plan, where an internal error happened.",
        ),
    ] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but errors and what was asked for.")
    ] = False,
) -> Settings:
    """Every kind of thing vsprov does is one verb; `vsprov VERB --help` tells more, with examples."""
    for option, given in (("--instance", instance), ("--root", root), ("--output", output)):
        if given == "":
            raise UsageError(f"{option}: what is given is empty", hint=f"leave {option} away for its default")
    name = instance or os.environ.get("VSPROV_INSTANCE") or DEFAULT
    if not _INSTANCE_NAME.fullmatch(name):
        raise UsageError(
            f"--instance {name!r}: not a name", hint="lower case letters, digits and dashes, at most 63"
        )
    place = root or os.environ.get("VSPROV_ROOT") or f"/var/lib/{name}"
    return Settings(Instance(name, os.path.abspath(place)), output or "", not no_color, verbose, quiet)


def inputs(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH...",
            help="Manifest files, folders of them, or - for standard input.",
            show_default=False,
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-R", help="Look into folders below the folders, too.")
    ] = False,
    template: Annotated[
        bool, typer.Option("--template", help="Render every file with Jinja2, not only *.j2.")
    ] = False,
    values: Annotated[
        list[str] | None,
        typer.Option("--values", metavar="FILE", help="YAML file of values for templates; may be repeated."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="One value for templates, as a.b=c; not the set of --set-name."
        ),
    ] = None,
) -> Any:  # Inputs, whose module typer would have to find
    from vsprov.engine.desired.inputs import Inputs  # loads what reads manifests

    return Inputs(tuple(paths or ()), recursive, template, tuple(values or ()), tuple(sets or ()))


@dataclass(frozen=True, slots=True)
class Work:
    """How many objects are worked on at once, and for how many seconds the lock is waited for."""

    parallelism: int
    lock_timeout: float


def work(
    parallelism: Annotated[
        str, typer.Option("--parallelism", metavar="N", help="How many objects are worked on at once.")
    ] = "32",
    lock_timeout: Annotated[
        str,
        typer.Option(
            "--lock-timeout", metavar="TIME", help="How long to wait for another apply to end, as 30s or 2m."
        ),
    ] = "0s",
) -> Work:
    if not (parallelism.isascii() and parallelism.isdigit() and 1 <= int(parallelism) <= 1024):
        raise UsageError(f"--parallelism {parallelism}: not a number between 1 and 1024")
    return Work(int(parallelism), duration(lock_timeout, "--lock-timeout") / 1_000_000)


class AsGiven:
    """Takes what the command line holds for what it is, text."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        return () if value is None and (param.multiple or param.nargs == -1) else value


def take_as_given(params: list[Any]) -> list[Any]:
    """Keep typer from loading the library it validates values with, which takes longer than all of `vsprov
    plan`: all our options are text or flags.
    """
    for param in params:
        if getattr(param, "_runtime_param", param) is None:
            param._runtime_param = AsGiven()
    return params


class Verb(TyperCommand):
    """A verb that also takes the options of `settings`; they may stand before or after the verb's name."""

    shared: tuple[Callable[..., Any], ...] = (settings,)

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        first = [
            param
            for function in self.shared
            for param in parameters(function)
            if param.param_type_name == "argument"
        ]
        rest = [
            param
            for function in self.shared
            for param in parameters(function)
            if param.param_type_name != "argument"
        ]
        self.params = [*first, *self.params, *rest]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What -o can be, as the verb's help says; text alone where it says nothing."""
        said = re.search(r"^Outputs \(-o\): (.*)", self.help or "", re.MULTILINE)
        words = re.findall(r"\w+", said[1]) if said else []
        return tuple(word for word in words if word in _FORMATS) or _FORMATS[:1]

    def get_params(self, ctx: Any) -> list[Any]:
        return take_as_given(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Calls the verb with `ctx.obj` what each shared function returned, by the function's name."""
        ctx.obj = {}
        for function in self.shared:
            given = {param.name: ctx.params.pop(param.name) for param in parameters(function)}
            if function is settings and ctx.parent:
                before = ctx.find_root().params
                given = {
                    name: value or before.get(name) if value != "" else value for name, value in given.items()
                }
            ctx.obj[function.__name__] = function(**given)
        settings_of(ctx).choose(*self.outputs)
        return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(one.metavar if one.required else f"[{one.metavar}]" for one in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        everywhere = {param.name for param in parameters(settings)}
        arguments: list[tuple[str, str]] = []
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                arguments.append((param.metavar or param.name, param.help or ""))
            elif record := param.get_help_record(ctx):
                (shared if param.name in everywhere else own).append(record)
        for title, rows in (("Arguments", arguments), ("Options", own), ("Options of every verb", shared)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class ManifestVerb(Verb):
    """A verb that reads manifests."""

    shared = (inputs, settings)


class ChangingVerb(Verb):
    """A verb that reads manifests and makes what they say."""

    shared = (inputs, work, settings)


@cache
def parameters(function: Callable[..., Any]) -> tuple[Any, ...]:
    """The parameters that typer makes of a function's signature, without --help."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(function)
    return tuple(param for param in typer.main.get_command(app).params if param.name != "help")


def verb(examples: str, kind: type[Verb] = Verb) -> Callable[[Any], Any]:
    """Mark a function as a verb: what its --help shows as examples, and which shared options it has."""

    def mark(function: Any) -> Any:
        function.examples, function.verb = examples, kind
        return function

    return mark


def server_name(given: str) -> str:
    """The name in `web1`, or in `Server/web1` as messages and `get -o name` have it."""
    kind, _, name = given.rpartition("/")
    return name if kind.lower() in ("server", "servers") else given


def settings_of(ctx: typer.Context) -> Settings:
    found: Settings = ctx.obj["settings"]
    return found


def work_of(ctx: typer.Context) -> Work:
    found: Work = ctx.obj["work"]
    return found


def inputs_of(ctx: typer.Context, *, needed: bool = True) -> Inputs:
    """Where the manifest is; with `needed`, UsageError when no path was given."""
    found: Inputs = ctx.obj["inputs"]
    if needed and not found.paths:
        raise UsageError(
            f"{ctx.info_name}: no manifest given", hint="name files or folders, or - for standard input"
        )
    return found


# -- options that some verbs share

SetName = Annotated[
    str | None,
    typer.Option(
        "--set-name",
        metavar="NAME",
        help="The set these objects belong to: what another set made is refused, and --prune removes of this "
        "one only. [default: `set` of vsprov.yaml, else default]",
    ),
]
Selector = Annotated[
    str | None,
    typer.Option(
        "--selector",
        "-l",
        metavar="LABELS",
        help="Only servers with these labels, with their images and quotas: tier=web,env!=dev.",
    ),
]
LOCKED = typer.Option("--locked", help="Refuse a tag that vsprov.lock.yaml has no digest for.")
Prune = Annotated[
    bool, typer.Option("--prune", help="Also remove what this set made and the manifest no longer has.")
]
AllowEmpty = Annotated[
    bool, typer.Option("--allow-empty", help="Let --prune remove all of the set when the manifest is empty.")
]
DetailedExitcode = Annotated[
    bool,
    typer.Option(
        "--detailed-exitcode", help="Exit with 2 when there are changes, 0 only when there are none."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Needed where nobody can be asked.")]


def duration(given: str, option: str) -> int:
    """Microseconds in an option's value. Raises UsageError."""
    from vsprov.model import units

    try:
        return units.parse_duration(given)
    except units.UnitError as error:
        raise UsageError(f"{option}: {error}", hint=error.hint) from error
