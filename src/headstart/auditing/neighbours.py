"""Nearest neighbours in the feature space of a frozen network."""

from __future__ import annotations

import numpy as np

_BLOCK = 1024


def unit(features: np.ndarray) -> np.ndarray:
    """float32 (n, d): features less their mean, as rows of length one; a row of zeros stays one."""
    centred = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, 1e-12), np.float32)


def nearest(rows: np.ndarray, groups: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest `count` rows of each row outside its own group, the nearest first.

    rows: float32 (n, d), of length one. groups: int64 (n,). Returns int64 (n, c) row numbers and
    float32 (n, c) cosines, where c is `count`, or less where there are fewer rows. A place without
    a row, because a group is large, has a cosine of -inf.
    """
    count = min(count, max(len(rows) - 1, 0))
    found = np.empty((len(rows), count), np.int64)
    cosines = np.empty((len(rows), count), np.float32)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        products = rows[part] @ rows.T
        products[groups[part, None] == groups[None, :]] = -np.inf
        best = np.argpartition(products, len(rows) - count, axis=1)[:, len(rows) - count :]
        values = np.take_along_axis(products, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        found[part] = np.take_along_axis(best, order, axis=1)
        cosines[part] = np.take_along_axis(values, order, axis=1)
    return found, cosines
