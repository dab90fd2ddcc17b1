"""Scores without the test images that have a duplicate in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.evaluation.metrics import score
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval


@dataclass(frozen=True, slots=True)
class WithoutDuplicates:
    """Scores on the n test images without a duplicate. left_out: number of images with one. source:
    the list, or the kind of search, that the duplicates are from."""

    n: int
    left_out: int
    accuracy: float
    interval: tuple[float, float]  # 95 %, Wilson
    balanced_accuracy: float
    balanced_interval: tuple[float, float]
    source: str


def without_duplicates(
    test: Predictions, duplicated: np.ndarray, source: str, kept: np.ndarray | None = None
) -> WithoutDuplicates:
    """Scores on the test images without a duplicate. duplicated: bool (n,).

    source: the list, or the kind of search, that the duplicates are from. kept: bool (n,), the
    images to score; by default all that are not duplicated. Raises ValueError where none is left.
    """
    rows = ~duplicated if kept is None else kept
    scored = Predictions(test.ids[rows], test.labels[rows], test.logits[rows])
    correct = scored.correct
    if not len(correct):
        raise ValueError("every test image has a duplicate in training")
    scores = score(scored)
    hits, n = int(correct.sum()), len(correct)
    return WithoutDuplicates(
        n=n,
        left_out=int(duplicated.sum()),
        accuracy=hits / n,
        interval=wilson_interval(hits, n),
        balanced_accuracy=scores.macro_recall,
        balanced_interval=scores.balanced_interval,
        source=source,
    )
