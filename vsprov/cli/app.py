"""The program: its verbs, found by name and loaded when called, and how each ends.

Exit codes: those of `vsprov.errors`, 64 for a wrong command line, 70 for a fault of vsprov itself, 130 and
143 when SIGINT or SIGTERM ended it, 141 when nobody reads its output any more.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from inspect import cleandoc
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from vsprov.cli.options import Verb, parameters, settings, take_as_given
from vsprov.errors import ManifestError, UsageError, VsprovError
from vsprov.render.screen import err, out

COMPLETE = "_VSPROV_COMPLETE"  # what the shell's completion function sets
SHELLS = ("bash", "zsh", "fish")
INTERNAL, INTERRUPTED, PIPE_CLOSED, TERMINATED = 70, 130, 141, 143

# Verb: (module and function, what it does in one line), in the order of --help.
VERBS = {
    "init": ("verbs.init:init", "Make a new infrastructure repository."),
    "validate": ("verbs.manifest:validate", "Check manifests; needs no root and changes nothing."),
    "render": ("verbs.manifest:render", "Show the documents as vsprov understands them."),
    "schema": ("verbs.manifest:schema", "Print the JSON Schema of a kind, for editors."),
    "plan": ("verbs.plan:plan", "Show what apply would do, and what each change costs."),
    "diff": ("verbs.plan:diff", "Compare what is there with the manifest, as a unified diff."),
    "apply": ("verbs.apply:apply", "Make things as the manifest says."),
    "destroy": ("verbs.apply:destroy", "Remove what a manifest describes, or everything."),
    "get": ("verbs.get:get", "Show what there is, as the kernel has it."),
    "start": ("verbs.lifecycle:start", "Start servers that are stopped."),
    "stop": ("verbs.lifecycle:stop", "Stop servers; what they have written is kept."),
    "restart": ("verbs.lifecycle:restart", "Stop servers and start them again."),
    "exec": ("verbs.exec:execute", "Run a command in a running server."),
    "shell": ("verbs.exec:shell", "Open a shell in a running server."),
    "logs": ("verbs.logs:logs", "Show what a server has written to its console."),
    "image ls": ("verbs.image:ls", "List the images in the store, with their sizes and who uses them."),
    "image pull": ("verbs.image:pull", "Bring images into the store, as their sources are now."),
    "image rm": ("verbs.image:rm", "Remove images that nothing uses."),
    "image prune": ("verbs.image:prune", "Remove what of the store nothing needs."),
    "image verify": ("verbs.image:verify", "Read every file of images again, and tell what has changed."),
    "image dedupe": ("verbs.image:dedupe", "Make identical files of different layers one file."),
    "image lock": ("verbs.image:lock", "Write down which digests the tags of manifests lead to."),
    "ps": ("verbs.ps:ps", "List the processes of all servers, as the host sees them."),
    "doctor": ("verbs.doctor:doctor", "Show what this host can do, and what it lacks."),
    "version": ("version:version", "Print the version."),
}

GROUPS = {"image": "Look after the images that servers share."}

BEGINNING = "  vsprov init demo && cd demo\n  vsprov plan servers\n  vsprov apply servers"


class Program(TyperGroup):
    """All verbs. A verb's module is imported when the verb is used, not to list or complete it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "commands": _commands("")})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[-1:] in (["--show-completion"], ["--install-completion"]):
            args = [*args, os.path.basename(os.environ.get("SHELL", ""))]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def get_params(self, ctx: Any) -> list[Any]:
        return take_as_given(super().get_params(ctx))


class Group(TyperGroup):
    """Verbs that share their first word."""

    def __init__(self, name: str) -> None:
        context = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        commands = _commands(f"{name} ")
        super().__init__(
            name=name,
            help=GROUPS[name],
            commands=commands,
            no_args_is_help=True,
            context_settings=context,
            rich_markup_mode=None,
        )


def _commands(prefix: str) -> dict[str, Any]:
    """{word: command} of all verbs that begin with `prefix`."""
    found: dict[str, Any] = {}
    for verb in VERBS:
        if verb.startswith(prefix):
            word, space, _ = verb.removeprefix(prefix).partition(" ")
            found[word] = found.get(word) or (Group(word) if space else Named(verb))
    return found


class Named(TyperCommand):
    """A verb that is only a name yet."""

    def __init__(self, name: str) -> None:
        super().__init__(name.rpartition(" ")[2], callback=None, help=VERBS[name][1], rich_markup_mode=None)
        self.verb = name

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return load(self.verb).make_context(info_name, args, parent=parent, **extra)


def load(name: str) -> Any:
    """The verb with its options and its function."""
    from importlib import import_module

    place, summary = VERBS[name]
    module_name, _, function_name = place.partition(":")
    module = import_module(f"vsprov.cli.{module_name}")
    function: Callable[..., None] = getattr(module, function_name)
    kind: type[Verb] = getattr(function, "verb", Verb)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    given: str = getattr(function, "examples", "") or module.EXAMPLES
    examples = "\n".join(f"  {line}" for line in given.strip().splitlines())
    app.command(
        name.rpartition(" ")[2],
        cls=kind,
        help=f"{summary}\n\n{cleandoc(function.__doc__ or '')}",
        epilog=f"\b\nExamples:\n{examples}" if examples else None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )(function)
    return typer.main.get_command(app)


def program() -> Any:
    """The whole command line, as typer has it."""
    app = typer.Typer(
        name="vsprov",
        cls=Program,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=True,
        no_args_is_help=True,
        help="vsprov: virtual servers of one kernel, from YAML manifests.",
        epilog=f"\b\nTo begin with:\n{BEGINNING}",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(settings)
    command: Any = typer.main.get_command(app)
    # typer's own guess which shell is meant, and cannot be told.
    kept = [param for param in command.params if not str(param.name).endswith("_completion")]
    command.params = [*kept, *parameters(completion)]
    return command


def _show(given: str | None) -> None:
    if given is not None:
        shell = _shell(given, "--show-completion")
        out(_scripts().get_completion_script(prog_name="vsprov", complete_var=COMPLETE, shell=shell))
        raise typer.Exit


def _install(given: str | None) -> None:
    if given is not None:
        shell = _shell(given, "--install-completion")
        _, path = _scripts().install(shell=shell, prog_name="vsprov")
        out(f"Written to {path}; a new shell completes vsprov.")
        raise typer.Exit


def _scripts() -> Any:
    """What typer has for shells; it exports none of it by name."""
    from importlib import import_module

    return import_module("typer.completion")


def _shell(given: str, option: str) -> str:
    if given not in SHELLS:
        hint = f"choose one of {', '.join(SHELLS)}"
        raise UsageError(f"{option} {given}: not a shell that can complete vsprov", hint=hint)
    return given


def completion(
    show: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="SHELL",
            help=f"Print what makes a shell complete vsprov: {', '.join(SHELLS)}.",
            callback=_show,
            expose_value=False,
        ),
    ] = None,
    install: Annotated[
        str | None,
        typer.Option(
            "--install-completion",
            metavar="SHELL",
            help="Put that where the shell reads it when it starts.",
            callback=_install,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """Options of the program alone."""


class Terminated(BaseException):
    """SIGTERM has come: what is under way is cleared away as for Ctrl-C."""


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; its exit code. Whatever goes wrong ends as a line on standard error."""
    try:
        try:
            code = _call(list(arguments))
        except BaseException as error:
            code = _explain(error)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _drop_output(PIPE_CLOSED)
    except OSError as error:
        err(f"vsprov: write the output: {error.strerror}")
        return _drop_output(1)


def _drop_output(code: int) -> int:
    """Let what is still buffered go nowhere, or the interpreter complains at its end."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _call(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, _terminate)
    command = program()
    if COMPLETE in os.environ:
        command.main(args=arguments, prog_name="vsprov", complete_var=COMPLETE)
        return 0
    try:
        with command.make_context("vsprov", arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return 0


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _explain(error: BaseException) -> int:
    """Say what went wrong; the exit code."""
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case BrokenPipeError():
            raise error
        case KeyboardInterrupt() | typer.Abort():
            err("vsprov: interrupted")
            return INTERRUPTED
        case Terminated():
            err("vsprov: terminated")
            return TERMINATED
        case ManifestError():
            from vsprov.render.problems import lines

            err("\n".join(lines(error.problems)))
            return error.exit_code
        case VsprovError():
            from vsprov.render.problems import error_lines

            err("\n".join(error_lines(error)))
            return error.exit_code
        case Exception() if hasattr(error, "format_message"):
            return _explain_usage(error)
        case PermissionError() if os.geteuid() != 0:
            err(f"vsprov: {error.filename or 'this'}: {error.strerror}\n  hint: run it with sudo")
            return 77
        case _:
            return _explain_fault(error)


def _explain_usage(error: Any) -> int:
    """What typer, or the click below it, has against the command line."""
    context = getattr(error, "ctx", None)
    said = error.format_message()
    if not said or type(error).__name__ == "NoArgsIsHelpError":
        err(context.get_help() if context else "vsprov: usage error")
        return UsageError.exit_code
    err(f"vsprov: {said.rstrip('.')}")
    if context is not None:
        err(f"  hint: {context.command_path} --help")
    return UsageError.exit_code


def _explain_fault(error: BaseException) -> int:
    told = " ".join(str(error).split())
    err(f"vsprov: internal error: {type(error).__name__}{f': {told}' if told else ''}")
    if os.environ.get("VSPROV_DEBUG") or any(word in ("-v", "-vv", "--verbose") for word in sys.argv[1:]):
        import traceback

        err("".join(traceback.format_exception(error)).rstrip())
    else:
        err("  hint: this is a fault of vsprov; with VSPROV_DEBUG=1 it shows where it happened")
    return INTERNAL
