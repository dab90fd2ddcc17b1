"""Classes of unequal size, where accuracy alone misleads.

Accuracy counts images, so the largest class decides it: if 71 % of the images are of one class, a
model that always predicts that class has an accuracy of 71 %. Balanced accuracy, the mean of the
classes' recalls, counts classes. Both are shown where the largest class has more than UNEQUAL times
as many images as the smallest. Arrays in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from headstart.evaluation.statistics import score_interval

if TYPE_CHECKING:
    from headstart.evaluation.metrics import Scores  # which needs `balanced_interval`

UNEQUAL = 1.5  # classes are unequal above this ratio of the largest to the smallest class


def unequal(counts: Sequence[int]) -> bool:
    """Whether classes with these numbers of images are unequal; classes without images are left
    out."""
    known = [n for n in counts if n]
    return bool(known) and max(known) > UNEQUAL * min(known)


def scores_are_unequal(scores: Scores) -> bool:
    """`unequal` for the classes of a split, from its scores."""
    return unequal([row.n for row in scores.per_class])


def majority_class(scores: Scores) -> int:
    """The most frequent class of a split, the first of several, from its scores."""
    counts = [row.n for row in scores.per_class]
    return counts.index(max(counts))


def balanced_interval(
    hits: np.ndarray, counts: np.ndarray, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean recall: hits of counts images are right in each class, int (k,).

    The classes are independent samples, so with q = (hits + 1/2) / (counts + 1)

        variance = sum(q (1 - q) / counts) / k^2

    and the interval is Wilson's at the sample size that would have this variance (Korn and Graubard
    1998). The added half images matter for a small class without mistakes: its recall is not surely
    1. There, a bootstrap stratified by class and the plain normal approximation cover 60 to 87 %
    instead of 95 %; this interval covers 93 to 97 % (13 made-up tables of 2 to 136 classes, 2,500
    draws each). Classes without images are left out.
    """
    met = counts > 0
    n, recalls = counts[met], hits[met] / counts[met]
    q = (hits[met] + 0.5) / (n + 1)
    variance = float((q * (1 - q) / n).sum()) / len(n) ** 2
    middle = float(q.mean())
    quantile = float(stats.norm.ppf(0.5 + confidence / 2))
    return score_interval(float(recalls.mean()), middle * (1 - middle) / variance, quantile)
