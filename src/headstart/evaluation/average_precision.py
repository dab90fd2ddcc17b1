"""Average precision: how well scores rank the images that have a label before those without it.

With images in falling order of their score, precision at an image is the share of the label's
images among all that score as high or higher. Average precision is the mean of the precision over
the label's images; equal scores count as one step. It is the value of scikit-learn's
`average_precision_score`. mAP, the macro average, is its mean over the labels that have images.
Arrays in, numbers out.
"""

from __future__ import annotations

import numpy as np


def average_precisions(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """float64 (k,): the average precision of each label; NaN of one without images.

    scores: real (n, k), higher for more likely labels. relevant: bool (n, k).
    """
    return np.array([_ranked(s, r)[0] for s, r in zip(scores.T, relevant.T, strict=True)])


def mean_average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """The mean over the labels that have images; NaN where none has."""
    found = average_precisions(scores, relevant)
    known = found[~np.isnan(found)]
    return float(known.mean()) if len(known) else float("nan")


def average_precision_values(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """float64 (n, k): values whose mean over the images is the average precision of each label.

    Each is the average precision plus the image's influence on it, n times its derivative by the
    image's weight (the infinitesimal jackknife of Jaeckel 1972). NaN of a label without images.
    """
    n = len(scores)
    columns = []
    for own, held in zip(scores.T, relevant.T, strict=True):
        value, influence = _ranked(own, held)
        columns.append(value + n * influence)
    return np.stack(columns, axis=1)


def _ranked(scores: np.ndarray, relevant: np.ndarray) -> tuple[float, np.ndarray]:
    """The average precision of one label, and its derivative by the weight of each image, (n,).

    An image's weight changes the precision of every image of the label that scores no higher, by
    (relevant - precision) / (number that scores as high or higher), and its own share of the mean.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, held = scores[order], relevant[order]
    total = int(held.sum())
    if not total:
        return float("nan"), np.full(len(scores), np.nan)
    # Of each image, the last place with its score, and the first.
    steps = np.flatnonzero(np.diff(ordered))
    group = np.concatenate([[0], np.cumsum(np.diff(ordered) != 0)])
    last = np.append(steps, len(ordered) - 1)[group]
    first = np.append(0, steps + 1)[group]
    hits = np.cumsum(held)[last]
    precision = hits / (last + 1)
    value = float(precision[held].sum() / total)
    # Sums over the images of the label from an image's own group to the end.
    below = np.zeros(len(ordered) + 1)
    weighted = np.zeros(len(ordered) + 1)
    below[:-1] = np.cumsum((held / (last + 1))[::-1])[::-1]
    weighted[:-1] = np.cumsum((held * precision / (last + 1))[::-1])[::-1]
    moved = held * below[first] - weighted[first] + held * (precision - value)
    influence = np.empty(len(ordered))
    influence[order] = moved / total
    return value, influence
