"""Notable rows: the surest mistakes, the narrowest margins, the pairs of confused classes."""

from __future__ import annotations

import numpy as np

from headstart.evaluation.metrics import confusion_matrix
from headstart.evaluation.predictions import Predictions


def confident_mistakes(predictions: Predictions, most: int) -> np.ndarray:
    """Rows of the wrong answers, surest first: int64 (at most `most`,)."""
    return _surest(predictions, np.flatnonzero(~predictions.correct))[:most]


def least_certain(predictions: Predictions, most: int) -> np.ndarray:
    """Rows by the margin between their two most probable classes, the narrowest first.

    int64 (at most `most`,); right answers and wrong ones.
    """
    second, first = np.partition(predictions.probabilities, (-2, -1), axis=1)[:, -2:].T
    return np.argsort(first - second, kind="stable")[:most]


def confused_pairs(predictions: Predictions, most: int, each: int) -> np.ndarray:
    """Rows of the most often confused pairs of classes, in both directions.

    int64 (at most `most` * `each`,): pairs by their number of mistakes, ties in class order; within
    a pair the surest mistakes first.
    """
    confusion = confusion_matrix(predictions)
    counts = np.triu(confusion + confusion.T, 1)
    order = np.argsort(-counts, axis=None, kind="stable")[:most]
    pairs = np.stack(np.unravel_index(order[counts.flat[order] > 0], counts.shape), axis=1)
    asked = np.sort(np.stack([predictions.labels, predictions.predicted], axis=1), axis=1)
    rows = [_surest(predictions, np.flatnonzero((asked == pair).all(axis=1))) for pair in pairs]
    return np.concatenate([np.zeros(0, np.int64), *(own[:each] for own in rows)])


def _surest(predictions: Predictions, rows: np.ndarray) -> np.ndarray:
    """The rows by how probable their answers were, the most probable first."""
    return rows[np.argsort(-predictions.confidence[rows], kind="stable")]
