"""Progress in a notebook: lines, and bars that are redrawn in place."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import Any

from headstart.machine.progress import Reporter, TerminalReporter
from headstart_predict.plain import visible

REDRAWN_S = 0.25  # a notebook keeps up with a few changes a second


def default_reporter() -> Reporter:
    """What a call reports to if it is given no reporter: the notebook in which it runs, or else the
    terminal."""
    return NotebookReporter() if in_notebook() else TerminalReporter()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. The shell `ipython` is not."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class NotebookReporter(Reporter):
    """Lines on stdout, because notebooks show stderr as errors; bars as HTML, which go when their
    work is done."""

    def __init__(self) -> None:
        self._moved: tuple[str, _Bar] | None = None
        # tqdm, which libraries load, asks for widgets that nothing here needs.
        warnings.filterwarnings("ignore", message="IProgress not found")

    def say(self, line: str) -> None:
        print(visible(line), flush=True)

    def warn(self, line: str) -> None:
        print(visible(f"warning: {line}"), flush=True)

    def transfer(self, label: str, done: int, total: int | None) -> None:
        if self._moved is None or self._moved[0] != label:
            self._end_transfer()
            self._moved = label, _Bar(label, total, "")
        self._moved[1].show(done)
        if total is not None and done >= total:
            self._end_transfer()

    def _end_transfer(self) -> None:
        if self._moved:
            self._moved[1].remove()
        self._moved = None

    @contextmanager
    def track(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        bar, count = _Bar(label, total, unit), 0

        def advance(done: int) -> None:
            nonlocal count
            count += done
            bar.show(count)

        try:
            yield advance
        finally:
            bar.remove()


class _Bar:
    """One bar, in a display of its own."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._began = self._drawn = time.monotonic()
        self._display: Any = None

    def show(self, done: int) -> None:
        now = time.monotonic()
        if now - self._drawn < REDRAWN_S:
            return
        self._drawn = now
        if self._display is None:
            show: Any = import_module("IPython.display").display  # it has no types
            self._display = show(self._bar(done, now), display_id=True)
        else:
            self._display.update(self._bar(done, now))

    def remove(self) -> None:
        if self._display is not None:
            self._display.update(_Html("", ""))

    def _bar(self, done: int, now: float) -> _Html:
        rate = done / max(now - self._began, 1e-9)
        words = f"{visible(self._label)}: {done:,}"
        if self._total:
            words += f" of {self._total:,}"
        words += f" {self._unit}".rstrip() + f", {rate:,.0f}/s"
        if self._total:
            words += f", {(self._total - done) / max(rate, 1e-9):,.0f} s left"
        length = f' value="{done}" max="{self._total}"' if self._total else ""
        return _Html(words, f"<progress{length}></progress> <span>{escape(words)}</span>")


class _Html:
    """HTML, and what takes its place where there is text alone."""

    def __init__(self, text: str, html: str) -> None:
        self._text, self._html = text, html

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._html
