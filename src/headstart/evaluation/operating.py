"""Where to draw the line between two classes.

An image is answered with the positive class if its calibrated probability reaches a threshold. At
0.5 both kinds of error count alike. Other thresholds are chosen on validation, or follow from what
each kind of error costs, and are measured on test. Arrays in, numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.evaluation.statistics import wilson_interval
from headstart.evaluation.two_classes import Rate

EVEN, BALANCED, F1, RECALL = "even", "balanced", "f1", "recall95"
ENOUGH_RECALL = 0.95
FEWEST = 10  # validation images of each class; with fewer, a threshold would be their luck


@dataclass(frozen=True, slots=True)
class Cut:
    """A threshold on the probability of the positive class, and what it gives on test.

    missed: positive images that are answered with the other class. false_alarms: the others that
    are answered with the positive one. precision: None where no image reaches the threshold.
    """

    threshold: float
    sensitivity: Rate
    specificity: Rate
    precision: Rate | None
    missed: int
    false_alarms: int


def cost_threshold(ratio: float) -> float:
    """The threshold with the least expected cost, if a missed positive image costs `ratio` times
    a false alarm (Elkan 2001): it needs calibrated probabilities, and no choice on data."""
    return 1 / (1 + ratio)


def choose_thresholds(probabilities: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """Thresholds by what they are the best for, on validation; EVEN alone if it has few images.

    probabilities: of the positive class, float (n,). positive: bool (n,). BALANCED: the highest
    mean of sensitivity and specificity (Youden 1950). F1: the highest F1. RECALL: the highest that
    finds ENOUGH_RECALL of the positive images. Each lies half way between two neighbouring
    probabilities. Of equally good ones the one that is the nearest to 0.5 is taken.
    """
    found, other = int(positive.sum()), int((~positive).sum())
    if min(found, other) < FEWEST:
        return {EVEN: 0.5}
    levels = np.unique(probabilities)
    thresholds = np.concatenate([[levels[0] / 2], (levels[:-1] + levels[1:]) / 2])
    order = np.sort(probabilities[positive]), np.sort(probabilities[~positive])
    hits, alarms = (len(each) - np.searchsorted(each, thresholds) for each in order)
    recall, f1 = hits / found, 2 * hits / (hits + alarms + found)
    nearest = -np.abs(thresholds - 0.5)

    def best(values: np.ndarray) -> float:
        return float(thresholds[np.lexsort((nearest, values))[-1]])

    enough = thresholds[recall >= ENOUGH_RECALL].max()
    return {EVEN: 0.5, BALANCED: best(recall - alarms / other), F1: best(f1), RECALL: float(enough)}


def measure_cut(threshold: float, probabilities: np.ndarray, positive: np.ndarray) -> Cut:
    """What a threshold gives on other images than chose it; there are some of both classes."""
    taken = probabilities >= threshold
    missed, alarms = int((positive & ~taken).sum()), int((~positive & taken).sum())
    found, other, called = int(positive.sum()), int((~positive).sum()), int(taken.sum())
    return Cut(
        threshold,
        _rate(found - missed, found),
        _rate(other - alarms, other),
        _rate(called - alarms, called) if called else None,
        missed,
        alarms,
    )


def _rate(hits: int, n: int) -> Rate:
    return Rate(hits / n, wilson_interval(hits, n), n)
