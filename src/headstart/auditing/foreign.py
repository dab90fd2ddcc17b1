"""Foreign pictures: those that resemble the pictures of no class.

The distance to the k-th nearest neighbour among features of unit length tells strangers without any
assumption on their distribution (Sun et al. 2022, "Out-of-distribution detection with deep nearest
neighbors"). Here it is taken within each class and compared with what is usual there, and k is a
share of the class: strangers that came in together are near each other, and must not vouch for one
another.
"""

from __future__ import annotations

import numpy as np

SHARE, LEAST = 0.2, 10  # of a class, and pictures, up to the neighbour that counts
FEWEST = 4  # pictures of a class that can be likened to
APART = 3.3  # robust deviations above the median, of logarithms
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

    features: float32 (n, d); labels, groups: int64 (n,). The distance to a class is that of the
    neighbour at SHARE of its pictures, divided by the median of its own pictures. Features are not
    centred: what all pictures of a folder have in common is what strangers lack. Classes of fewer
    than FEWEST pictures are no measure.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.asarray(features / np.maximum(lengths, 1e-12), np.float32)
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
    """float64 (n,): the distance, at most 2, to a near member outside a row's own group."""
    place = max(int(SHARE * len(members)), min(LEAST, len(members) - 2))
    far = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        apart = np.sqrt(np.maximum(2 - 2 * (rows[part] @ members.T), 0))
        apart[groups[part, None] == own[None, :]] = 2.0
        far[part] = np.partition(apart, place, axis=1)[:, place]
    return far
