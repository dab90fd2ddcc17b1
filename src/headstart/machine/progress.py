"""Progress of a command or a call: lines and progress bars on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headstart_predict.plain import visible


class Reporter:
    """A silent reporter, and the base class of all others.

    Without a reporter, the command line uses `TerminalReporter`, and Python that of its notebook
    or terminal.
    """

    def say(self, line: str) -> None:
        """One line about a decision or a finished step."""

    def warn(self, line: str) -> None:
        """One line about something that the user may not want."""

    def transfer(self, label: str, done: int, total: int | None) -> None:
        """The progress of a download or a scan."""

    @contextmanager
    def track(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        """A bar of `total` units; the yielded function advances it."""
        yield lambda done: None


class TerminalReporter(Reporter):
    """Lines and bars with rates and time left on stderr; lines alone where it is no terminal, as
    in notebooks, logs and pipes."""

    def __init__(self) -> None:
        from rich.console import Console

        # A notebook's kernel sets FORCE_COLOR, but its stderr cannot redraw bars.
        self._bars = sys.stderr.isatty()
        self._console = Console(
            stderr=True,
            highlight=False,
            force_terminal=None if self._bars else False,
            force_jupyter=False,
        )
        self._transfer = TransferLine()

    def say(self, line: str) -> None:
        self._console.print(visible(line), markup=False, soft_wrap=True)

    def transfer(self, label: str, done: int, total: int | None) -> None:
        self._transfer(label, done, total)

    def warn(self, line: str) -> None:
        line = visible(f"warning: {line}")
        self._console.print(line, markup=False, style="yellow", soft_wrap=True)

    @contextmanager
    def track(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        if not self._bars:
            yield _LineTracker(label, total, unit).advance
            return
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(label, total=total, rate="")

            def advance(done: int) -> None:
                speed = progress.tasks[task].speed
                progress.update(task, advance=done, rate=f"{speed:,.0f} {unit}/s" if speed else "")

            yield advance


class _LineTracker:
    """Progress for logs and pipes: a line every ten seconds; none for shorter work."""

    INTERVAL_S = 10.0

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._started = self._said = time.monotonic()

    def advance(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._said < self.INTERVAL_S:
            return
        self._said = now
        rate = self._done / (now - self._started)
        share = left = ""
        if self._total:
            share = f" of {self._total:,}"
            left = f", {(self._total - self._done) / max(rate, 1e-9):,.0f} s left"
        line = f"{self._label}: {self._done:,}{share} {self._unit} ({rate:,.0f}/s{left})"
        print(line, file=sys.stderr, flush=True)


class TransferLine:
    """Progress of a transfer as (label, done, total): rewritten on a terminal, rare elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._interval_s = 0.2 if self._terminal else 10.0
        self._label: str | None = None
        self._started = self._said = 0.0

    def __call__(self, label: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if label != self._label:
            self._label, self._started, self._said = label, now, now
            print(f"{visible(label)} ...", file=sys.stderr, flush=True)
            return
        finished = total is not None and done >= total
        if now - self._said < self._interval_s and not finished:
            return
        self._said = now
        rate = done / max(now - self._started, 1e-9)
        of = left = ""
        if total:
            of = f" of {total:,} ({done / total:.0%})"
            left = f", {(total - done) / max(rate, 1e-9):,.0f} s left" if not finished else ""
        end = "\n" if finished or not self._terminal else "\r"
        print(f"  {done:,}{of}, {rate:,.0f}/s{left}   ", end=end, file=sys.stderr, flush=True)
