"""Pairs of images that come from one shot: nearest neighbours, then compared by pixels.

Barz and Denzler ("Do We Train on Test Data? Purging CIFAR of Near-Duplicates", 2020) had people
judge the nearest neighbours in a network's feature space. Here a number decides, so that it works
on any data: the correlation of the two pictures' detail, after one is mirrored, moved and enlarged
to fit the other. Brightness, contrast and tint do not lower it.

All pictures have SIDE pixels a side. That is enough to distinguish two shots, and a folder of
photos is as quick to search as CIFAR. docs/duplicates.md shows examples at each threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from headstart.data.check.alignment import (
    SIDE,
    ZOOMS,
    Prepared,
    detail,
    enlarge,
    ground,
    overlay,
    scores,
)
from headstart.data.check.thumbnails import thumbnails
from headstart.data.images import ImageSet

# Zooms are tried on pairs that correlate at least so much without a zoom, and are not yet NEAR. A
# tenth of the candidates do.
WORTH_ZOOMING = 0.5
# A pair is a duplicate with a correlation of at least NEAR, or of at least LIKELY together with a
# cosine of at least AGREES between the two images' features.
NEAR, LIKELY, AGREES = 0.9, 0.85, 0.75
# The same picture differs by at most so many of 255 levels on average, in place and not mirrored,
# and by at most this share of its own contrast, so that two blank grey sheets are not the same.
EXACT_LEVELS, EXACT_SHARE = 2.0, 0.1
# Nearest neighbours that are compared by pixels: by each measure, for the image and its mirror.
NEIGHBOURS = 5
# Cells along each side of a sketch.
CELLS = 8

_BLOCK, _TILE = 1024, 2048


class Features(NamedTuple):
    """A network's features of two image sets, rows of unit length, for `find_pairs`.

    first (n, d), first_mirrored (n, d): of the first set's images and of their mirror images;
    second (m, d).
    """

    first: np.ndarray
    first_mirrored: np.ndarray
    second: np.ndarray


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows of two image sets, the surest first.

    first, second: int64 (n,), rows. mirrored: bool (n,), whether one fits the mirror image of the
    other. correlation: float32 (n,), -1..1. cosine: float32 (n,), of a network's features; NaN
    without a network. exact: bool (n,), whether both are the same picture but for a little noise.
    """

    first: np.ndarray
    second: np.ndarray
    mirrored: np.ndarray
    correlation: np.ndarray
    cosine: np.ndarray
    exact: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def pick(self, rows: np.ndarray) -> Pairs:
        return Pairs(*(getattr(self, field.name)[rows] for field in fields(self)))


def find_pairs(first: ImageSet, second: ImageSet, features: Features | None = None) -> Pairs:
    """Pairs of an image of `first` and an image of `second` that come from one shot.

    Candidates are the nearest neighbours by `sketch`, and by features where they are given. If both
    are the same set, an image is no pair with itself, and each pair comes once.
    """
    same = np.array_equal(first.ids, second.ids)
    mine = thumbnails(first)
    theirs = mine if same else thumbnails(second)
    sketches = Features(sketch(mine), sketch(mine[:, :, ::-1]), sketch(theirs))
    measures = [sketches] if features is None else [sketches, features]
    candidates = np.concatenate([_identical(first, second), *map(_neighbours, measures)])
    if same:
        candidates = candidates[candidates[:, 0] != candidates[:, 1]]
        candidates[:, :2].sort(axis=1)
    candidates = np.unique(candidates, axis=0)
    # In tiles of both sets, so that the transforms of a tile take about 100 MB.
    tiles = candidates[:, 0] // _TILE * (len(theirs) // _TILE + 1) + candidates[:, 1] // _TILE
    blocks = [candidates[tiles == tile] for tile in np.unique(tiles)] or [candidates]
    parts = [_measured(mine, theirs, block, features) for block in blocks]
    pairs = Pairs(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Pairs))
    )
    return _confirmed(pairs)


def sketch(pixels: np.ndarray) -> np.ndarray:
    """float32 (n, 3 * CELLS ** 2), rows of unit length: cell means less each channel's own mean.

    The cosine of two sketches is the correlation of two small thumbnails. It is quick to compute,
    and a shift of one or two pixels hardly changes it.
    """
    n, cell = len(pixels), SIDE // CELLS
    cells = pixels.reshape(n, CELLS, cell, CELLS, cell, 3).mean(axis=(2, 4), dtype=np.float32)
    return unit_rows((cells - cells.mean(axis=(1, 2), keepdims=True)).reshape(n, -1))


def same_picture(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """bool (n,): the pairs of pictures, uint8 (n, S, S, 3), that are the same but for noise."""
    apart = np.abs(first.astype(np.int16) - second).mean(axis=(1, 2, 3), dtype=np.float32)
    means = first.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    contrast = np.abs(first - means).mean(axis=(1, 2, 3))
    return np.asarray(apart <= np.minimum(EXACT_LEVELS, EXACT_SHARE * contrast))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """float32, the rows (n, d) scaled to unit length; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-6), np.float32)


def _identical(first: ImageSet, second: ImageSet) -> np.ndarray:
    """int64 (k, 3), as `_neighbours`: byte-identical pairs. A picture without detail has no nearest
    neighbour, so these are added."""
    rows = {digest: row for row, digest in enumerate(second.digests)}
    both = [(row, rows[d], 0) for row, d in enumerate(first.digests) if d in rows]
    return np.array(both, np.int64).reshape(-1, 3)


def _neighbours(measure: Features) -> np.ndarray:
    """int64 (k, 3): row of the first set, row of the second, whether mirrored."""
    # One more, since in its own set an image is its own nearest neighbour.
    count = min(NEIGHBOURS + 1, len(measure.second))
    parts = []
    for mirrored, queries in enumerate((measure.first, measure.first_mirrored)):
        for start in range(0, len(queries), _BLOCK):
            products = queries[start : start + _BLOCK] @ measure.second.T
            nearest = np.argpartition(products, -count, axis=1)[:, -count:]
            rows = np.repeat(np.arange(start, start + len(nearest)), count)
            parts.append(np.stack([rows, nearest.ravel(), np.full(len(rows), mirrored)], axis=1))
    return np.concatenate(parts)


def _measured(
    mine: np.ndarray, theirs: np.ndarray, candidates: np.ndarray, features: Features | None
) -> Pairs:
    first, second, mirrored = candidates[:, 0], candidates[:, 1], candidates[:, 2] == 1
    exact = same_picture(mine[first], theirs[second])
    correlation = _correlations(mine, theirs, candidates)
    cosine = np.full(len(candidates), np.nan, np.float32)
    if features is not None:
        own = np.where(mirrored[:, None], features.first_mirrored[first], features.first[first])
        cosine = (own * features.second[second]).sum(axis=1)
    return Pairs(first, second, mirrored, correlation, cosine, exact)


def _correlations(mine: np.ndarray, theirs: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """float32 (k,), -1..1, at the best shift and zoom.

    Each picture is enlarged and transformed once for each zoom and used for all its pairs. None is
    shrunk: that would leave a margin.
    """
    firsts, own = np.unique(candidates[:, 0], return_inverse=True)
    seconds, other = np.unique(candidates[:, 1] * 2 + candidates[:, 2], return_inverse=True)
    a, b = mine[firsts], theirs[seconds // 2]
    b[seconds % 2 == 1] = b[seconds % 2 == 1][:, :, ::-1]
    plain, laid = ground(detail(a)), overlay(detail(b))
    best = _best(plain, laid, own, other)
    worth = np.flatnonzero((best >= WORTH_ZOOMING) & (best < NEAR))
    for zoom in ZOOMS if len(worth) else ():
        pairs = (
            (ground(detail(enlarge(a, zoom))), laid),
            (plain, overlay(detail(enlarge(b, zoom)))),
        )
        for one, two in pairs:
            best[worth] = np.maximum(best[worth], _best(one, two, own[worth], other[worth]))
    return best


def _best(first: Prepared, second: Prepared, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float32 (k,): the best score of each pair of rows."""
    blocks = range(0, len(own), _BLOCK)
    parts = [
        scores(first.pick(own[i : i + _BLOCK]), second.pick(other[i : i + _BLOCK])) for i in blocks
    ]
    best = [part.max(axis=(1, 2)).astype(np.float32) for part in parts]
    return np.concatenate(best) if best else np.empty(0, np.float32)


def _confirmed(pairs: Pairs) -> Pairs:
    """The pairs that are duplicates, the surest first. A pair comes once, in the orientation that
    fits better."""
    agreed = (pairs.correlation >= LIKELY) & (pairs.cosine >= AGREES)
    pairs = pairs.pick(pairs.exact | (pairs.correlation >= NEAR) | agreed)
    pairs = pairs.pick(np.lexsort((-pairs.correlation, ~pairs.exact)))
    _, first_met = np.unique(
        np.stack([pairs.first, pairs.second], axis=1), axis=0, return_index=True
    )
    return pairs.pick(np.sort(first_met))
