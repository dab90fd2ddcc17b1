"""Foreign pictures: those that resemble the pictures of no class.

The distance to the k-th nearest neighbour among normalised features tells strangers without any
assumption on their distribution (Sun et al. 2022, "Out-of-distribution detection with deep nearest
neighbors"). Here it is taken within each class, and compared with what is usual in that class.
"""

from __future__ import annotations

import numpy as np

from headstart.auditing.neighbours import unit

NEIGHBOURS = 5
FEWEST = 4  # pictures of a class that can be likened to
APART = 6.0  # robust deviations above the median, of logarithms
_BLOCK = 1024


def find_foreign(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> list[tuple[int, float]]:
    """Rows that are much farther from every class than is usual, the farthest first, with
    `distances`."""
    far = distances(features, labels, groups)
    logs = np.log(np.maximum(far, 1e-6))
    middle = float(np.median(logs)) if len(logs) else 0.0
    spread = max(1.4826 * float(np.median(np.abs(logs - middle))), 1e-3) if len(logs) else 1.0
    rows = np.flatnonzero(logs > middle + APART * spread)
    return [(int(row), float(far[row])) for row in rows[np.argsort(-far[rows], kind="stable")]]


def distances(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """float64 (n,): how far each picture is from the class that is nearest to it; 1 is usual there.

    features: float32 (n, d); labels, groups: int64 (n,). The distance to a class is the mean cosine
    distance to its NEIGHBOURS nearest pictures of other groups, divided by the median of the
    class's own pictures. Classes of fewer than FEWEST pictures are no measure.
    """
    rows = unit(features)
    least = np.full(len(labels), np.inf)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if len(own) >= FEWEST:
            far = _to_class(rows, rows[own], groups, groups[own])
            usual = np.median(far[own])
            least = np.minimum(least, far / max(float(usual), 1e-6))
    return np.where(np.isfinite(least), least, 1.0)


def _to_class(
    rows: np.ndarray, members: np.ndarray, groups: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """float64 (n,): the mean cosine distance to the nearest members outside a row's own group."""
    count = min(NEIGHBOURS, len(members) - 1)
    far = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        apart = 1 - rows[part] @ members.T
        apart[groups[part, None] == own[None, :]] = 2.0  # as far as can be
        far[part] = np.partition(apart, count - 1, axis=1)[:, :count].mean(axis=1)
    return far
