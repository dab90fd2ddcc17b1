"""Corruptions: accuracy on corrupted images, and on the same images without corruption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart.evaluation.metrics import selection_value
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval


@dataclass(frozen=True, slots=True)
class Applied:
    """A corruption that was applied: its name, its severity, its constant as text."""

    name: str
    severity: int
    setting: str


@dataclass(frozen=True, slots=True)
class CorruptedScores(Applied):
    """Scores on the images with this corruption."""

    accuracy: float
    interval: tuple[float, float]  # 95 %, Wilson
    balanced_accuracy: float


@dataclass(frozen=True, slots=True)
class Corruptions:
    """Scores on n images without corruption, and with each corruption. side: pixels a side of the
    images when they were corrupted. The means are over the corruptions."""

    n: int
    accuracy: float
    side: int
    corruptions: tuple[CorruptedScores, ...]
    mean: float
    balanced_accuracy: float
    balanced_mean: float


def corrupted_scores(
    clean: Predictions, applied: Sequence[Applied], logits: np.ndarray, side: int
) -> Corruptions:
    """Accuracies under each corruption, plain and balanced, and their means.

    clean: predictions on the same n images without corruption. logits: float32 (applied, n,
    classes).
    """
    n, rows = len(clean), []
    for each, values in zip(applied, logits, strict=True):
        made = Predictions(clean.ids, clean.labels, values)
        hits = int(made.correct.sum())
        rows.append(
            CorruptedScores(
                each.name,
                each.severity,
                each.setting,
                accuracy=hits / n,
                interval=wilson_interval(hits, n),
                balanced_accuracy=_balanced(made),
            )
        )
    return Corruptions(
        n=n,
        accuracy=float(clean.correct.mean()),
        side=side,
        corruptions=tuple(rows),
        mean=float(np.mean([row.accuracy for row in rows])),
        balanced_accuracy=_balanced(clean),
        balanced_mean=float(np.mean([row.balanced_accuracy for row in rows])),
    )


def _balanced(made: Predictions) -> float:
    return selection_value(made, "balanced_accuracy")
