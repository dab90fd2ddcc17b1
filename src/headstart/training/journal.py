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

    def outcomes(self, below: int) -> list[list[int | float | None]]:
        """What later phases take from the log of those below: a checkpoint keeps it, so that a
        run does not go on from a log that has lost or changed it."""
        done = self.run.history.done
        return [
            [number, event.improved, event.l2, event.start_l2]
            for number, event in sorted(done.items())
            if number < below
        ]

    def warn(self, line: str) -> None:
        """Report a warning, and keep it in the manifest."""
        self.reporter.warn(line)
        if line not in self.run.warnings:
            self.run.add_warning(line)
