"""How an apply goes: a line for each object, or on a terminal a bar above which the lines scroll by."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from vsprov.errors import VsprovError
from vsprov.plan.plan import Change
from vsprov.render.plan import done
from vsprov.render.problems import error_lines
from vsprov.render.screen import Screen, clean, err


class Lines:
    """Tells of each object when it is done, and of errors when they happen, on standard error.

    A context, so that the bar of `Bar` goes away whatever happens.
    """

    def __init__(self, screen: Screen, *, quiet: bool = False) -> None:
        self.screen, self.quiet = screen, quiet
        self.since: dict[str, float] = {}
        self.heard = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is shown any more."""

    def expect(self, changes: int) -> None:
        """So many changes are about to be made."""

    def started(self, change: Change) -> None:
        self.since[change.key] = time.monotonic()

    def finished(self, change: Change, error: VsprovError | None) -> None:
        """Errors are always told; what went well only of objects people named."""
        if error is not None:
            for line in error_lines(error):
                self.line(self.screen.paint(line, "red"))
            return
        if change.kind != "Host" and not change.phase and not self.quiet:
            seconds = time.monotonic() - self.since.get(change.key, time.monotonic())
            self.line(f"{clean(change.address)}: {done(change)} ({seconds:.1f}s)")

    def say(self, line: str) -> None:
        if not self.quiet:
            self.line(clean(line))

    def line(self, text: str) -> None:
        """Say it; that nobody listens any more does not stop the work."""
        if self.heard:
            try:
                self.tell(text)
            except BrokenPipeError:
                self.heard = False

    def tell(self, text: str) -> None:
        err(text)


class Bar(Lines):
    """The same on a terminal, with a bar of what is done."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self.bar: Any = None
        self.task: Any = None

    def expect(self, changes: int) -> None:
        if changes < 2:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        console = Console(
            stderr=True, no_color=not self.screen.color, highlight=False, markup=False, emoji=False
        )
        self.bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        self.task = self.bar.add_task("", total=changes)
        self.bar.start()

    def finished(self, change: Change, error: VsprovError | None) -> None:
        super().finished(change, error)
        if self.bar is not None:
            self.bar.advance(self.task)
            self.bar.refresh()

    def tell(self, text: str) -> None:
        if self.bar is None:
            err(text)
        else:
            from rich.text import Text

            self.bar.console.print(Text.from_ansi(text), soft_wrap=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def progress(screen: Screen, *, quiet: bool = False) -> Lines:
    """How to tell of progress on this screen."""
    return Bar(screen) if screen.terminal and not quiet else Lines(screen, quiet=quiet)
