"""Scores without the test images that a model may know from training."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.evaluation.metrics import score
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval


def without_duplicates(
    test: Predictions, leaking: np.ndarray, source: str, kept: np.ndarray | None = None
) -> dict[str, Any]:
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
    return {
        "n": n,
        "left_out": int(leaking.sum()),
        "accuracy": hits / n,
        "interval": wilson_interval(hits, n),
        "balanced_accuracy": scores.macro_recall,
        "balanced_interval": scores.balanced_interval,
        "source": source,
    }
