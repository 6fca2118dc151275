"""`vsprov logs`: the console output of servers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import click

from vsprov.cli import complete, options
from vsprov.cli.options import server_name
from vsprov.cli.verb import Settings, verb
from vsprov.engine.logs import choose, files, settled, span
from vsprov.engine.logs.files import Log
from vsprov.engine.logs.span import Asked, Span
from vsprov.errors import FailedError, UsageError, reason
from vsprov.kernel import process
from vsprov.render.console import TerminalFilter
from vsprov.render.screen import clean, err
from vsprov.store.instance import Instance

OPEN_FILES = 1 << 16
AT_ONCE = 1 << 16  # bytes


@verb(
    """
vsprov logs web1
vsprov logs web1 -n 20 -f
vsprov logs -l tier=web --since 10m -t
vsprov logs web1 --previous
vsprov logs web1 | grep -i error
""",
    outputs=("text", "json"),
)
@click.argument(
    "names", metavar="[NAME...]", nargs=-1, help="Names of servers.", shell_complete=complete.servers
)
@options.server_selector_option
@click.option("--all", "everything", is_flag=True, help="All servers of the instance.")
@click.option(
    "--follow", "-f", "follows", is_flag=True,
    help="Keep printing new output, also after a restart, until Ctrl-C.",
)  # fmt: skip
@click.option(
    "--tail",
    "-n",
    metavar="LINES",
    default="all",
    show_default=True,
    help="Number of lines to print from the end of each log, or all.",
)
@click.option("--since", metavar="TIME", help="Only what was written then or later: 10m, 2026-01-31T12:00Z.")
@click.option("--until", metavar="TIME", help="Only what was written then or earlier.")
@click.option("--timestamps", "-t", is_flag=True, help="Print when each line was written.")
@click.option("--previous", "-p", is_flag=True, help="Print the output of the run before the last start.")
def logs(
    settings: Settings,
    names: tuple[str, ...],
    labels: str | None,
    everything: bool,
    follows: bool,
    tail: str,
    since: str | None,
    until: str | None,
    timestamps: bool,
    previous: bool,
) -> None:
    """Prints what the processes of servers wrote to standard output and standard error, as far as it is kept
    (console.maxSize, maxFiles). The lines of several servers are printed in the order in which they were
    written, each with the name of its server.

    On a terminal, control characters are printed as escape sequences; in a pipe or file the output is not
    changed. Times are in UTC, and - where they are not known. With -o json, each line is a JSON object.
    """
    if follows and (previous or until is not None):
        raise UsageError(f"logs: -f cannot be combined with {'--previous' if previous else '--until'}")
    asked = Asked(_lines(tail), _moment("--since", since), _moment("--until", until), previous)
    process.require_root("logs: reading the consoles of servers")
    chosen = _choose(settings.instance, tuple(map(server_name, names)), labels, everything)
    if not chosen:
        err("No server is selected.")
        return
    process.raise_open_files(OPEN_FILES)
    for name, problem in settled.settle(settings.instance, chosen).items():
        err(f"vsprov: Server/{clean(name)}: the end of the log may be missing: {problem}")
    if sys.stdout is not None:
        sys.stdout.flush()
    is_plain = len(chosen) == 1 and not timestamps and settings.output == "text"
    with ExitStack() as opened:
        try:
            logs, spans = _open(settings.instance, chosen, asked, opened)
            if is_plain and logs:
                _print_plain(settings, logs, spans[chosen[0]], follows)
            elif logs:
                _print_lines(settings, logs, spans, follows, timestamps)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None  # the usual way to end --follow: no message
    if len(logs) < len(chosen):
        raise click.exceptions.Exit(1)


def _choose(
    instance: Instance, names: tuple[str, ...], labels: str | None, everything: bool
) -> Sequence[str]:
    if sum((bool(names), labels is not None, everything)) != 1:
        raise UsageError("specify exactly one of: names of servers, -l, --all")
    if labels is not None:
        from vsprov.engine.desired import selector

        return choose.by_labels(instance, selector.parse(labels))
    return choose.every(instance) if everything else choose.by_name(instance, names)


def _open(
    instance: Instance, chosen: Sequence[str], asked: Asked, opened: ExitStack
) -> tuple[dict[str, Log], dict[str, Span]]:
    """The logs, and which part of each is to be printed; prints what is wrong with the others."""
    logs, spans = {}, {}
    for name in chosen:
        try:
            log = opened.enter_context(files.open_log(instance, name))
            found = span.find(name, log, asked)
        except FailedError as error:
            if len(chosen) == 1:
                raise
            err(f"vsprov: {error}")
            continue
        if found.unknown:
            err(f"vsprov: Server/{clean(name)}: {found.unknown} bytes without a known time are left out")
        logs[name], spans[name] = log, found
    return logs, spans


def _print_plain(settings: Settings, logs: dict[str, Log], part: Span, follows: bool) -> None:
    """Print the log of one server as it is."""
    (log,) = logs.values()
    terminal_filter = TerminalFilter() if os.isatty(1) else None

    def print_(data: bytes) -> None:
        _write(terminal_filter.feed(data) if terminal_filter else data)

    for block in log.read(part.start, part.end):
        print_(block.data)
    for batch in _follow(settings, logs) if follows else ():
        for _name, block in batch:
            print_(block.data)
    if terminal_filter:
        _write(terminal_filter.end())


def _print_lines(
    settings: Settings, logs: dict[str, Log], spans: dict[str, Span], follows: bool, timestamps: bool
) -> None:
    """Print the lines of logs, in the order of their times."""
    from vsprov.engine.logs.lines import Line, Splitter, merge, split
    from vsprov.render.log_lines import JsonPrinter, Printer

    is_json = settings.output == "json"
    printer = JsonPrinter() if is_json else Printer(logs, settings.stdout, times=timestamps)
    splitters = {name: Splitter(name) for name in logs}

    def print_(lines: Iterator[Line]) -> None:
        waiting = bytearray()  # one write for many lines
        for line in lines:
            waiting += printer.line(*line)
            if len(waiting) >= AT_ONCE:
                _write(bytes(waiting))
                waiting.clear()
        _write(bytes(waiting))

    for log in logs.values():
        log.read_times()
    whole = is_json and follows  # a line of JSON is printed when it has ended
    parts = {name: logs[name].read(spans[name].start, spans[name].end) for name in logs}
    print_(merge(split(splitters[name], part, flush=not whole) for name, part in parts.items()))
    for batch in _follow(settings, logs) if follows else ():
        new: dict[str, list[files.Block]] = {}
        for name, block in batch:
            new.setdefault(name, []).append(block)
            block.file.times.refresh()
        print_(merge(split(splitters[name], part, flush=not whole) for name, part in new.items()))
    print_(merge(splitter.flush() for splitter in splitters.values()))
    _write(printer.end())


def _follow(settings: Settings, logs: dict[str, Log]) -> Iterator[list[tuple[str, files.Block]]]:
    from vsprov.engine.logs.follow import follow

    def on_loss(name: str) -> None:
        err(f"vsprov: Server/{clean(name)}: output is missing here: the file was removed before it was read")

    batches = follow(settings.instance, logs, on_loss)
    for log in logs.values():
        log.close()
    return batches


def _lines(given: str) -> int | None:
    if given == "all":
        return None
    if not given.isascii() or not given.isdigit():
        raise UsageError(f"--tail {given}: not a number of lines", hint="use a number, or all")
    return int(given)


def _moment(option: str, given: str | None) -> int | None:
    """Microseconds since 1970 of `10m`, which is that long ago, or of a time of ISO 8601."""
    from datetime import datetime

    from vsprov.model.values.units import UnitError, parse_duration

    if given is None:
        return None
    try:
        return max(0, int(time.time() * 1_000_000) - parse_duration(given))
    except UnitError:
        pass
    try:
        return max(0, int(datetime.fromisoformat(given).timestamp() * 1_000_000))
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option} {given}: not a time",
            hint="use a duration such as 10m, or a time such as 2026-01-31T12:00:00Z",
        ) from None


def _write(block: bytes) -> None:
    try:
        while block:
            block = block[os.write(1, block) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FailedError(f"write the output: {reason(error)}") from error
