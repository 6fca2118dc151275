"""Carrying out a command line, and how it ends.

Exit codes: those of `vsprov.errors`, 64 for a wrong command line, 70 for a fault of vsprov itself, 130 and
143 when SIGINT or SIGTERM ended it, 141 when nobody reads its output any more.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from vsprov.cli import shells
from vsprov.cli.program import program
from vsprov.errors import EXHAUSTED, ManifestError, UsageError, VsprovError, path_of
from vsprov.render.screen import clean, err

INTERNAL, INTERRUPTED, PIPE_CLOSED, TERMINATED = 70, 130, 141, 143


class Terminated(BaseException):
    """SIGTERM was received; like KeyboardInterrupt, it unwinds what is under way."""


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; its exit code. Every error ends as lines on standard error."""
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
    """Discard what is still buffered: the interpreter would fail to write it when it exits."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _call(arguments: list[str]) -> int:
    _received.clear()
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as by our caller, it takes exit codes away
    command = program()
    if shells.VARIABLE in os.environ:
        shells.complete(command)
        return 0
    try:
        with command.make_context("vsprov", arguments) as context:
            command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0


_received: list[int] = []  # SIGTERM, once it was received


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    raise Terminated


def _explain(error: BaseException) -> int:
    """Print what went wrong; the exit code."""
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case BrokenPipeError():
            raise error
        case KeyboardInterrupt() | click.Abort():
            return _explain_signal(error, "interrupted", INTERRUPTED)
        case Terminated():
            return _explain_signal(error, "terminated", TERMINATED)
        case ManifestError():
            from vsprov.render.problems import lines

            err("\n".join(lines(error.problems)))
            return error.exit_code
        case VsprovError():
            from vsprov.render.problems import error_lines

            err("\n".join(error_lines(error)))
            return error.exit_code
        case click.ClickException():
            return _explain_usage(error)
        case OSError() if _is_of_output(error):
            raise error
        case FileNotFoundError() if _is_in_a_removed_directory():
            err("vsprov: the current directory has been removed\n  hint: cd to another directory")
            return UsageError.exit_code
        case PermissionError() if os.geteuid() != 0:
            err(f"vsprov: {error.filename or 'this'}: {error.strerror}\n  hint: run it with sudo")
            return 77
        case OSError(errno=int(number)) if number in EXHAUSTED:
            err(f"vsprov: {error.filename or 'this host'}: {error.strerror}\n  hint: {_hint(error, number)}")
            return 1
        case MemoryError():
            return _explain_memory()
        case ImportError() if "failed to map segment" in str(error):  # of a compiled module, by ld.so(8)
            return _explain_memory()
        case RuntimeError() if str(error) == "can't start new thread":
            err(f"vsprov: start a thread: {os.strerror(errno.EAGAIN)}\n  hint: {EXHAUSTED[errno.EAGAIN]}")
            return 1
        case _ if _received:  # some libraries turn what a signal handler raises into an error of their own
            err("vsprov: terminated")
            return TERMINATED
        case _:
            return _explain_fault(error)


def _explain_signal(error: BaseException, how: str, code: int) -> int:
    """Print how a signal ended the command, and what it left undone."""
    err(f"vsprov: {how}")
    for line in getattr(error, "__notes__", ()):
        err(clean(line))
    return code


def _is_of_output(error: OSError) -> bool:
    """Whether click, which prints the help, could not write it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is click.echo.__code__


def _is_in_a_removed_directory() -> bool:
    """Whether relative paths cannot be made absolute; getcwd(2): ENOENT."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _hint(error: OSError, number: int) -> str:
    from vsprov.kernel.storage import full

    place = path_of(error)
    return full.hint(number, place) if number in full.FULL and place else EXHAUSTED[number]


def _explain_memory() -> int:
    err(f"vsprov: out of memory\n  hint: {EXHAUSTED[errno.ENOMEM]}")
    return 1


def _explain_usage(error: click.ClickException) -> int:
    """Print what click reports about the command line; without a message, the help."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message()
    if not message and context:
        err(context.get_help())
        return UsageError.exit_code
    err(f"vsprov: {message.rstrip('.')}")
    if context:
        err(f"  hint: {context.command_path} --help")
    return UsageError.exit_code


def _explain_fault(error: BaseException) -> int:
    message = " ".join(str(error).split())
    err(f"vsprov: internal error: {type(error).__name__}{f': {message}' if message else ''}")
    if os.environ.get("VSPROV_DEBUG") or any(word in ("-v", "-vv", "--verbose") for word in sys.argv[1:]):
        import traceback

        err("".join(traceback.format_exception(error)).rstrip())
    else:
        err("  hint: this is a bug in vsprov; set VSPROV_DEBUG=1 to print the traceback")
    return INTERNAL
