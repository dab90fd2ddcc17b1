"""Where a training's records go: the run's directory, and whoever listens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headstart.machine.progress import Reporter
from headstart.rundir.run import Run


@dataclass(frozen=True)
class Journal:
    """Where a training's records go. started: time.perf_counter() less the seconds that earlier
    parts of the run took."""

    run: Run
    reporter: Reporter
    started: float

    @property
    def checkpoint(self) -> Path:
        return self.run.path / "checkpoints" / "last.safetensors"

    def warn(self, line: str) -> None:
        """Say it, and keep it with the run."""
        self.reporter.warn(line)
        if line not in self.run.warnings:
            self.run.add_warning(line)
