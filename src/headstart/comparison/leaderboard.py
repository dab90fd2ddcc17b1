"""The leaderboard: finished runs on the same test images, and what cannot be told from the best."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headstart.errors import RunError
from headstart.evaluation.metrics import mcnemar
from headstart.rundir import Run

NOISE_LEVEL = 0.05


@dataclass(frozen=True)
class Row:
    """One run of a comparison; the scores are None where it did not finish."""

    run: str
    status: str
    path: str | None = None
    error: str | None = None
    backbone: str | None = None
    weights: str | None = None
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None
    top5: float | None = None
    loss: float | None = None
    val_accuracy: float | None = None
    p_value: float | None = None  # exact McNemar against the best run
    within_noise: bool = False
    marks: list[str] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A run of a study that did not finish, and why."""

    run: str
    backbone: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` answers: rows by test accuracy, and the run that validation chose."""

    name: str
    best: str
    rows: tuple[Row, ...]
    protocol: dict[str, str]
    order: tuple[str, ...] = ()  # the finished runs' paths in the order given: the study's
    selection: dict[str, Any] | None = None  # with a budget: rounds, who was dropped and why
    limits: dict[str, Any] | None = None  # the best that is quick and small enough
    path: Path | None = None
    report: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, without the paths of this machine."""
        rows = [asdict(row) for row in self.rows]
        plain = {"name": self.name, "best": self.best, "rows": rows, "protocol": self.protocol}
        asked = {"selection": self.selection, "limits": self.limits}
        asked = {key: value for key, value in asked.items() if value is not None}
        return {**plain, "order": list(self.order), **asked}

    @property
    def best_row(self) -> Row:
        return next(row for row in self.rows if row.run == self.best)


def split_finished(runs: Sequence[Run]) -> tuple[list[Run], list[Failure]]:
    """The finished runs, and why each of the others is none."""
    failures = [
        Failure(run.name, run.recipe.backbone.name, run.manifest.get("error") or run.status)
        for run in runs
        if not run.finished
    ]
    return [run for run in runs if run.finished], failures


def build_comparison(
    name: str, runs: Sequence[Run], failures: Sequence[Failure], root: Path
) -> Comparison:
    """Compare finished runs by their saved predictions; paths are given relative to `root`.

    The best run is the one validation prefers (the lower loss on a tie), because test is opened
    once and chooses nothing; rows are ordered by test accuracy. `within_noise` marks the runs
    whose errors on the test images do not differ from the best run's (exact McNemar, p >= 0.05).
    Raises RunError where the runs were tested on different images.
    """
    require_same_test(runs)
    best = max(runs, key=_validation)
    labels = label_runs(runs)
    rows = [_row(run, label, best, root) for run, label in zip(runs, labels, strict=True)]
    rows.sort(key=lambda row: (-(row.accuracy or 0), row.run))
    failed = [Row(f.run, status="failed", error=f.reason, backbone=f.backbone) for f in failures]
    order = tuple(os.path.relpath(run.path, root) for run in runs)
    chosen = labels[list(runs).index(best)]
    return Comparison(name, chosen, (*rows, *failed), _protocol(), order)


def _validation(run: Run) -> tuple[float, float]:
    val = run.metrics["val"]
    return val["accuracy"], -val["loss"]


def require_same_test(runs: Sequence[Run]) -> None:
    """Raises RunError where two of the runs were tested on different images."""
    first = runs[0].manifest["data"]["test_fingerprint"]
    for run in runs[1:]:
        if run.manifest["data"]["test_fingerprint"] != first:
            raise RunError(
                f"{run.name} and {runs[0].name} were tested on different images: "
                "their accuracies cannot be compared"
            )


def label_runs(runs: Sequence[Run]) -> list[str]:
    """The runs' names; runs that share one are told apart by their fingerprints."""
    names = [run.name for run in runs]
    full = [f"{run.name}-{run.manifest['fingerprint']}" for run in runs]
    return [
        name if names.count(name) == 1 else long if full.count(long) == 1 else f"{long}-{number}"
        for number, (name, long) in enumerate(zip(names, full, strict=True), start=1)
    ]


def _row(run: Run, label: str, best: Run, root: Path) -> Row:
    test, val = run.metrics["test"], run.metrics["val"]
    p_value = mcnemar(best.predictions("test"), run.predictions("test"))
    return Row(
        run=label,
        path=os.path.relpath(run.path, root),
        status=run.status,
        backbone=run.recipe.backbone.name,
        weights=run.manifest["weights"]["provider"],
        accuracy=test["accuracy"],
        interval=tuple(test["interval"]),
        n=test["n"],
        top5=test["top5"],
        loss=test["loss"],
        val_accuracy=val["accuracy"],
        p_value=p_value,
        within_noise=p_value >= NOISE_LEVEL,
        marks=run.manifest["marks"],
        cost=run.cost,
    )


def _protocol() -> dict[str, str]:
    return {
        "choice": "every choice (epoch, penalty, best run) was made on validation; "
        "test was opened once, at the end",
        "interval": "95 % Wilson interval of the test accuracy",
        "within noise": "exact McNemar test against the best on the same test images, p >= 0.05",
    }
