"""Progress of an apply: a line per object, and on a terminal a progress bar below the lines."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

from vsprov.errors import VsprovError
from vsprov.plan.plan import Change
from vsprov.render.plan import done
from vsprov.render.problems import error_lines
from vsprov.render.screen import Screen, clean, err
from vsprov.render.tables import size

INTERVAL = 5.0  # seconds between two lines about the progress of an object
REFRESH = 0.1  # seconds between two updates of the bars


class Lines:
    """Prints a line on standard error when an object is done, and every error when it happens.

    It is a context manager, so that `Bar` always removes its bar.
    """

    def __init__(self, screen: Screen, *, quiet: bool = False) -> None:
        self.screen, self.quiet = screen, quiet
        self.since: dict[str, float] = {}  # when each change was started
        self.printed: dict[str, float] = {}  # when progress of each object was last printed
        self.reported: dict[str, str] = {}  # what it was
        self.lock = threading.Lock()
        self.writable = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop showing progress."""

    def expect(self, changes: int) -> None:
        """Announce the number of changes."""

    def started(self, change: Change) -> None:
        self.since[change.key] = time.monotonic()

    def finished(self, change: Change, error: VsprovError | None) -> None:
        """Print every error, but success only of objects of the manifest."""
        if error is not None:
            for line in error_lines(error):
                self.line(self.screen.paint(line, "red"))
            return
        if change.of_manifest and not self.quiet:
            seconds = time.monotonic() - self.since.get(change.key, time.monotonic())
            self.line(f"{clean(change.address)}: {done(change)} ({seconds:.1f}s)")

    def notice(self, line: str) -> None:
        if not self.quiet:
            self.line(clean(line))

    def progressed(self, address: str, what: str, done: int, total: int) -> None:
        """Show that `done` bytes of `total` (0: unknown) are done. Any thread may call it."""
        if self.quiet:
            return
        now = time.monotonic()
        with self.lock:
            due = now - self.printed.setdefault(address, now) >= INTERVAL
            if due:
                self.printed[address] = now
        text = f"{what}: {amount(done, total)}"
        if due and self.reported.get(address) != text:
            self.reported[address] = text
            self.line(clean(f"{address}: {text}"))

    def line(self, text: str) -> None:
        """Print a line; a reader that has gone does not stop the work."""
        if self.writable:
            try:
                self.write(text)
            except BrokenPipeError:
                self.writable = False

    def write(self, text: str) -> None:
        err(text)


class Bar(Lines):
    """The same on a terminal, with a bar for all changes, and one for each download or import."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self.bar: Any = None
        self.task: Any = None
        self.changes = self.done = 0
        self.parts: dict[tuple[str, str], Any] = {}
        self.refreshed = 0.0

    def expect(self, changes: int) -> None:
        self.changes = changes
        if changes > 1:
            self._start()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(
            stderr=True, no_color=not self.screen.color, highlight=False, markup=False, emoji=False
        )
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        if self.changes > 1:
            self.task = self.bar.add_task("", total=self.changes, amount=f"0/{self.changes}")
        self.bar.start()

    def finished(self, change: Change, error: VsprovError | None) -> None:
        super().finished(change, error)
        if self.bar is None:
            return
        with self.lock:
            for key in [key for key in self.parts if key[0] == change.address]:
                self.bar.remove_task(self.parts.pop(key))
        self.done += 1
        if self.task is not None:
            self.bar.update(self.task, advance=1, amount=f"{self.done}/{self.changes}")
        self.bar.refresh()

    def progressed(self, address: str, what: str, done: int, total: int) -> None:
        with self.lock:
            if self.bar is None:
                self._start()
            key = (address, what)
            if key not in self.parts:
                self.parts[key] = self.bar.add_task(
                    clean(f"{address} {what}"), total=total or None, amount=""
                )
            if total and done >= total:
                self.bar.remove_task(self.parts.pop(key))
            else:
                shown = amount(done, total)
                self.bar.update(self.parts[key], completed=done, total=total or None, amount=shown)
            if time.monotonic() - self.refreshed >= REFRESH:
                self.refreshed = time.monotonic()
                self.bar.refresh()

    def write(self, text: str) -> None:
        if self.bar is None:
            err(text)
        else:
            from rich.text import Text

            self.bar.console.print(Text.from_ansi(text), soft_wrap=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def amount(done: int, total: int) -> str:
    """`12.3Mi of 50Mi`; only the bytes done if the total is unknown, and "…" before the first."""
    return f"{size(done)} of {size(total)}" if total else size(done) if done else "…"


def progress(screen: Screen, *, quiet: bool = False) -> Lines:
    """The form of progress that suits this screen."""
    return Bar(screen) if screen.terminal and not quiet else Lines(screen, quiet=quiet)
