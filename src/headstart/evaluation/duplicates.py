"""Scores without the test images that a model may know from training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.evaluation.metrics import score
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval


@dataclass(frozen=True, slots=True)
class WithoutDuplicates:
    """Scores on the n test images that are left; left_out: how many are not; source: who says which
    have a duplicate."""

    n: int
    left_out: int
    accuracy: float
    interval: tuple[float, float]  # 95 %, Wilson
    balanced_accuracy: float
    balanced_interval: tuple[float, float]
    source: str


def without_duplicates(
    test: Predictions, leaking: np.ndarray, source: str, kept: np.ndarray | None = None
) -> WithoutDuplicates:
    """Accuracy on the test images that are not `leaking`, bool (n,); source: who says which are.

    kept: bool (n,), those that are scored, by default all others. Raises ValueError where no image
    is left.
    """
    rows = ~leaking if kept is None else kept
    scored = Predictions(test.ids[rows], test.labels[rows], test.logits[rows])
    correct = scored.correct
    if not len(correct):
        raise ValueError("every test image has a duplicate in training")
    scores = score(scored)
    hits, n = int(correct.sum()), len(correct)
    return WithoutDuplicates(
        n=n,
        left_out=int(leaking.sum()),
        accuracy=hits / n,
        interval=wilson_interval(hits, n),
        balanced_accuracy=scores.macro_recall,
        balanced_interval=scores.balanced_interval,
        source=source,
    )
