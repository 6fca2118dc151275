"""Completion in shells: printing and installing the script that makes a shell complete vsprov."""

from __future__ import annotations

import os

import click

from vsprov.errors import FailedError, UsageError, reason
from vsprov.render.screen import out

VARIABLE = "_VSPROV_COMPLETE"  # set by the script when it asks for completions
# Shell: (its script, its start-up file, the line needed there), files below the home directory.
_PLACES = {
    "bash": (".bash_completions/vsprov.sh", ".bashrc", "source ~/.bash_completions/vsprov.sh"),
    "zsh": (".zfunc/_vsprov", ".zshrc", "fpath+=~/.zfunc; autoload -Uz compinit; compinit"),
    "fish": (".config/fish/completions/vsprov.fish", "", ""),
}
# `odd:` is the beginning of a word, after which bash sets no blank then.
_NO_BLANK = (
    "    return 0\n",
    "    [[ ${COMPREPLY[0]} == *: ]] && compopt -o nospace\n    return 0\n",
)


def script(program: click.Command, shell: str) -> str:
    """The script that makes the shell complete vsprov."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    text = found(program, {}, "vsprov", VARIABLE).source()
    return text.replace(*_NO_BLANK) if shell == "bash" else text


def install(program: click.Command, shell: str) -> str:
    """Write the script, and make the user's shells read it when they start; the script's path.

    Raises FailedError, and UsageError where other files have these names.
    """
    from vsprov.store.disk.output_file import write_output

    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise UsageError(f"--install-completion {shell}: the home directory is unknown", hint="set HOME")
    place, startup, line = _PLACES[shell]
    path = os.path.join(home, place)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_output(path, script(program, shell).encode(), "the script", mode=0o644, replaces=_is_script)
        if startup:
            _add_line(os.path.join(home, startup), line.encode())
    except OSError as error:
        raise FailedError(f"{error.filename}: install completion for {shell}: {reason(error)}") from error
    return path


def _is_script(path: str) -> bool:
    with open(path, "rb") as file:
        return VARIABLE.encode() in file.read(1 << 20)


def _add_line(path: str, line: bytes) -> None:
    """Append the line to a file that does not have it."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{path}: install completion: not a regular file")
    with open(path, "ab+") as file:
        file.seek(0)
        if line not in file.read().splitlines():
            file.write(b"\n" + line + b"\n")


def complete(program: click.Command) -> None:
    """Print the completions that the script asks for in the environment."""
    from click.shell_completion import shell_complete

    shell_complete(program, {}, "vsprov", VARIABLE, os.environ[VARIABLE])


def _show(ctx: click.Context, param: click.Parameter, given: str | None) -> None:
    if given is not None and not ctx.resilient_parsing:
        out(script(ctx.command, _shell(given, "--show-completion")))
        ctx.exit()


def _install(ctx: click.Context, param: click.Parameter, given: str | None) -> None:
    if given is not None and not ctx.resilient_parsing:
        path = install(ctx.command, _shell(given, "--install-completion"))
        out(f"Installed {path}; completion works in new shells.")
        ctx.exit()


def _shell(given: str, option: str) -> str:
    """The given shell, or that of the user. Raises UsageError."""
    shell = given or os.path.basename(os.environ.get("SHELL", ""))
    if shell not in _PLACES:
        raise UsageError(f"{option} {shell}: unsupported shell", hint=f"choose from {', '.join(_PLACES)}")
    return shell


OPTIONS = tuple(
    click.Option(
        [option],
        metavar="SHELL",
        is_flag=False,
        flag_value="",
        expose_value=False,
        callback=callback,
        help=f"{text}: {', '.join(_PLACES)}. [default: from $SHELL]",
    )
    for option, callback, text in (
        ("--show-completion", _show, "Print the completion script of a shell"),
        ("--install-completion", _install, "Install the completion script of a shell for this user"),
    )
)
