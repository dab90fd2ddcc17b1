"""The journal of a training: the run's directory and the reporter that its events go to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headstart.machine.progress import Reporter
from headstart.rundir.run import Run


@dataclass(frozen=True)
class Journal:
    """The targets of a training's events. started: time.perf_counter() at the start, less the
    seconds of earlier attempts."""

    run: Run
    reporter: Reporter
    started: float

    @property
    def checkpoint(self) -> Path:
        return self.run.place("checkpoints/last.safetensors")

    def warn(self, line: str) -> None:
        """Report a warning, and keep it in the manifest."""
        self.reporter.warn(line)
        if line not in self.run.warnings:
            self.run.add_warning(line)
