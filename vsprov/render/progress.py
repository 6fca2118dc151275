"""How an apply goes: a line for each object, or on a terminal a bar above which the lines scroll by."""

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

PACE = 5.0  # seconds between two lines about the same object
FRAME = 0.1  # seconds between two pictures of the bars


class Lines:
    """Tells of each object when it is done, and of errors when they happen, on standard error.

    A context, so that the bar of `Bar` goes away whatever happens.
    """

    def __init__(self, screen: Screen, *, quiet: bool = False) -> None:
        self.screen, self.quiet = screen, quiet
        self.since: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self.lock = threading.Lock()
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

    def progressed(self, address: str, what: str, done: int, total: int) -> None:
        """An object is so many bytes on its way, of `total` if that is not 0; called from any thread."""
        if self.quiet:
            return
        now = time.monotonic()
        with self.lock:
            due = now - self.told.setdefault(address, now) >= PACE
            if due:
                self.told[address] = now
        if due:
            self.line(clean(f"{address}: {what}: {amount(done, total)}"))

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
    """The same on a terminal, with a bar of what is done, and one for each thing on its way."""

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
            if time.monotonic() - self.refreshed >= FRAME:
                self.refreshed = time.monotonic()
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


def amount(done: int, total: int) -> str:
    """`12.3Mi of 50Mi`; only what is done where the whole is not known, and "…" where that is nothing yet."""
    return f"{size(done)} of {size(total)}" if total else size(done) if done else "…"


def progress(screen: Screen, *, quiet: bool = False) -> Lines:
    """How to tell of progress on this screen."""
    return Bar(screen) if screen.terminal and not quiet else Lines(screen, quiet=quiet)
