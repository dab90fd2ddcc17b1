"""Thresholds of several labels: above which score an image is said to have a label.

The threshold of a label is the one with the highest F1 on validation, half way between two
neighbouring scores. With few images of a label that would be the luck of these few: such a label
takes the one threshold that has the highest F1 over all labels together. Arrays in, numbers out.
"""

from __future__ import annotations

import numpy as np

# Validation images of a label below which it takes the threshold of all labels together.
FEWEST = 10


def choose_thresholds(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """float64 (k,): an image has label c where its score is at least thresholds[c].

    scores: real (n, k). relevant: bool (n, k). Of thresholds with an equal F1 the highest is taken.
    0 where no label has an image.
    """
    shared = _best(scores.ravel(), relevant.ravel()) if relevant.any() else 0.0
    counts = relevant.sum(axis=0)
    return np.array(
        [
            _best(scores[:, c], relevant[:, c]) if counts[c] >= FEWEST else shared
            for c in range(scores.shape[1])
        ]
    )


def _best(scores: np.ndarray, relevant: np.ndarray) -> float:
    """The threshold of the highest F1; there is an image with the label."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    hits = np.cumsum(relevant[order])
    taken = np.arange(1, len(ordered) + 1)
    f1 = 2 * hits / (taken + int(hits[-1]))
    f1[:-1][ordered[:-1] == ordered[1:]] = -1  # equal scores are taken together
    best = int(f1.argmax())
    if best == len(ordered) - 1:  # every image has it
        return float(np.nextafter(ordered[best], -np.inf))
    return float((ordered[best] + ordered[best + 1]) / 2)
