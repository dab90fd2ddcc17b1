"""Confirmation: a second comparison of pairs that look like duplicates on thumbnails.

On a thumbnail two drawings of one letter, or two bars, correlate like two prints of one photo. With
FINE pixels a side they do not, or their common detail is only a few strokes on an empty ground.
"""

from __future__ import annotations

import numpy as np

from headstart.data.check.alignment import SIDE, align
from headstart.data.check.pairs import NEAR, Pairs, same_picture
from headstart.data.check.thumbnails import native_sides, squares
from headstart.data.images import ImageSet

# Pixels a side of the second comparison, and those that both images must have for it to help.
FINE, ENOUGH_PIXELS = 96, 64
# The correlation that a pair of smaller images needs on thumbnails, in place of NEAR.
NEAR_TINY = 0.95
# The least spread of the common detail (see `align`) for a pair to count.
SPREAD = 0.25

_BLOCK = 64


def confirm(pairs: Pairs, first: ImageSet, second: ImageSet) -> np.ndarray:
    """bool (n,): the pairs of `find_pairs` that are duplicates at a higher resolution too.

    Reads the images of the pairs again: about 30 ms a pair.
    """
    native = np.minimum(native_sides(first, pairs.first), native_sides(second, pairs.second))
    holds = np.zeros(len(pairs), bool)
    for large in (True, False):
        rows = np.flatnonzero((native >= ENOUGH_PIXELS) == large)
        side, near = (FINE, NEAR) if large else (SIDE, NEAR_TINY)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            holds[block] = _holds(pairs.pick(block), first, second, side, near)
    return holds


def _holds(pairs: Pairs, first: ImageSet, second: ImageSet, side: int, near: float) -> np.ndarray:
    a, b = squares(first, pairs.first, side), squares(second, pairs.second, side)
    exact = pairs.exact & same_picture(a, b)
    b[pairs.mirrored] = b[pairs.mirrored][:, :, ::-1]
    correlation, spread = align(a, b, near)
    return np.asarray(exact | ((correlation >= near) & (spread >= SPREAD)))
