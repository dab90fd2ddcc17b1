"""Scores without the test images that a model may know from training."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.evaluation.metrics import score
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval


def without_duplicates(
    test: Predictions, leaking: np.ndarray, source: str, searched: np.ndarray | None = None
) -> dict[str, Any]:
    """Accuracy on the test images that are not `leaking`, bool (n,); source: who says which are.

    searched: bool (n,), the images of which that is known, by default all. Raises ValueError where
    no image is left.
    """
    rows = ~leaking if searched is None else searched & ~leaking
    kept = Predictions(test.ids[rows], test.labels[rows], test.logits[rows])
    correct = kept.correct
    if not len(correct):
        raise ValueError("every test image has a duplicate in training")
    scores = score(kept)
    hits, n = int(correct.sum()), len(correct)
    return {
        "n": n,
        "left_out": int(leaking.sum()),
        "accuracy": hits / n,
        "interval": wilson_interval(hits, n),
        "balanced_accuracy": scores.macro_recall,
        "balanced_interval": scores.balanced_interval,
        "source": source,
    }
