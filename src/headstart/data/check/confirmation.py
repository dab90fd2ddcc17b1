"""Confirmation: pairs that thumbnails take for duplicates, looked at more closely.

On a thumbnail two drawings of one letter, or two bars, correlate like two prints of one photo. In
FINE pixels a side they do not, or what they have in common is a few strokes on an empty ground.
"""

from __future__ import annotations

import numpy as np

from headstart.data.check.alignment import SIDE, align
from headstart.data.check.pairs import NEAR, Pairs, same_picture
from headstart.data.check.thumbnails import native_sides, squares
from headstart.data.images import ImageSet

# Pixels a side of the closer look, and what both images must have for it to show more.
FINE, ENOUGH_PIXELS = 96, 64
# What a pair of smaller images has to reach on thumbnails instead of NEAR.
NEAR_TINY = 0.95
# The least spread of what agrees (see `align`) that tells two shots apart.
SPREAD = 0.25

_BLOCK = 64


def confirm(pairs: Pairs, first: ImageSet, second: ImageSet) -> np.ndarray:
    """bool (n,): which of the pairs that `find_pairs` found are ones at a closer look, too.

    Reads the images of the pairs again, about 30 ms a pair.
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
