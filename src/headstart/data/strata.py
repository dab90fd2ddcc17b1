"""Labels of either shape: one class an image, int64 (n,), or several, bool (n, classes).

Images are split, limited and folded by strata. With one label the stratum of an image is its class.
With several it is the rarest of its labels in the set: rare labels are then spread evenly, and
frequent ones follow, since most of their images are in the strata of others or in their own
(a simple form of the iterative stratification of Sechidis, Tsoumakas & Vlahavas 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def strata_of(labels: np.ndarray) -> np.ndarray:
    """int64 (n,): the stratum of each image; of several labels, `classes` for an image without
    any."""
    if labels.ndim == 1:
        return labels
    counts = labels.sum(axis=0)
    rarity = np.argsort(np.argsort(counts, kind="stable"), kind="stable")
    place = np.where(labels, rarity, labels.shape[1])
    rarest = place.argmin(axis=1).astype(np.int64)
    return np.asarray(np.where(labels.any(axis=1), rarest, labels.shape[1]))


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 (classes,): the images of each class."""
    if labels.ndim == 1:
        return np.bincount(labels, minlength=classes)
    return np.asarray(labels.sum(axis=0, dtype=np.int64))


def label_text(label: np.ndarray, names: Sequence[str]) -> str:
    """The label or labels of one image, a row of `labels`, in words."""
    if label.ndim == 0:
        return names[int(label)]
    return ", ".join(names[int(k)] for k in np.flatnonzero(label)) or "no label"
