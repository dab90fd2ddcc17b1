"""Duplicates: pairs of images that come from one shot, found among many and confirmed from pixels.

Barz and Denzler ("Do We Train on Test Data? Purging CIFAR of Near-Duplicates", 2020) had people
judge the nearest neighbours in a network's feature space. Here the judgement is a number, so that
it can be repeated on any data: how well the two pictures' detail correlates once one is mirrored,
moved and enlarged to fit the other. Brightness, contrast and tint do not count against a pair.

Everything happens on pictures of SIDE pixels: enough to tell two shots apart, and a folder of
photos is as quick to search as CIFAR. docs/duplicates.md shows what lies on either side of each
threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from headstart.data.images import ImageSet

SIDE = 32
# Pixels, of SIDE, by which two pictures may be moved against each other along either axis.
SHIFT = 3
# How much either of the two may be enlarged around its centre. Tried on pairs that correlate at
# least WORTH_ZOOMING as they are, which a tenth of the candidates do.
ZOOMS = (1.08, 1.17, 1.27)
WORTH_ZOOMING = 0.5
# Standard deviations, in pixels, of the blurs between which "detail" lies. Finer is resampling and
# JPEG noise; coarser is a dark shape on a bright ground, which most ships and planes are.
BAND = (0.7, 3.0)
# A correlation of at least NEAR is a duplicate; so is one of at least LIKELY where a network
# agrees, by a cosine of at least AGREES between the two images' features.
NEAR, LIKELY, AGREES = 0.9, 0.85, 0.75
# At most this mean difference, of 255 levels, in place and not mirrored, is the same picture again.
EXACT_LEVELS = 2.0
# Neighbours of an image that are looked at closely: by each measure, as it is and mirrored.
NEIGHBOURS = 5
# Cells along each side of a sketch.
CELLS = 8

_BLOCK = 1024


class Features(NamedTuple):
    """What a network makes of two image sets, rows of unit length, for `find_duplicates`.

    first (n, d), first_mirrored (n, d): of the first set's images and of their mirror images;
    second (m, d).
    """

    first: np.ndarray
    first_mirrored: np.ndarray
    second: np.ndarray


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows of two image sets, the surest first.

    first, second: int64 (n,), rows; mirrored: bool (n,), whether one fits the other's mirror
    image; correlation: float32 (n,), -1..1; cosine: float32 (n,), of a network's features, NaN
    where there is none; levels: float32 (n,), mean absolute difference of 0..255 in place.
    """

    first: np.ndarray
    second: np.ndarray
    mirrored: np.ndarray
    correlation: np.ndarray
    cosine: np.ndarray
    levels: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    @property
    def exact(self) -> np.ndarray:
        """bool (n,): the same picture again, but for a little noise."""
        return np.asarray(self.levels <= EXACT_LEVELS)

    def pick(self, rows: np.ndarray) -> Pairs:
        return Pairs(*(getattr(self, field.name)[rows] for field in fields(self)))


def find_duplicates(first: ImageSet, second: ImageSet, features: Features | None = None) -> Pairs:
    """Pairs of an image of `first` and one of `second` that come from one shot.

    Compared are the nearest neighbours by `sketch` and, where there are features, by those too.
    Where both are the same set, an image is no pair with itself, and each pair is told once.
    """
    same = np.array_equal(first.ids, second.ids)
    mine = _small(first)
    theirs = mine if same else _small(second)
    sketches = Features(sketch(mine), sketch(mine[:, :, ::-1]), sketch(theirs))
    measures = [sketches] if features is None else [sketches, features]
    found = np.concatenate([_identical(first, second), *map(_neighbours, measures)])
    if same:
        found = found[found[:, 0] != found[:, 1]]
        found[:, :2].sort(axis=1)
    found = np.unique(found, axis=0)
    blocks = [found[i : i + _BLOCK] for i in range(0, max(len(found), 1), _BLOCK)]
    parts = [_measured(mine, theirs, block, features) for block in blocks]
    pairs = Pairs(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Pairs))
    )
    return _confirmed(pairs)


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 (n,): how well two pictures' detail correlates, -1..1, at the best shift.

    Takes `detail` of both, float32 (n, 3, SIDE, SIDE). The centre of the second is laid over each
    window of the first. Each channel's mean is taken out, so that a tint does not matter; one scale
    is shared by the channels, so that a channel without detail does not either (normalised
    cross-correlation, its numerators by FFT: Lewis 1995).
    """
    window, shifts = SIDE - 2 * SHIFT, 2 * SHIFT + 1
    centre = second[:, :, SHIFT:-SHIFT, SHIFT:-SHIFT]
    centre = centre - centre.mean(axis=(2, 3), keepdims=True)
    spectrum = fft.rfft2(first) * fft.rfft2(centre, (SIDE, SIDE)).conj()
    products = fft.irfft2(spectrum.sum(axis=1), (SIDE, SIDE))[:, :shifts, :shifts]
    means = (_window_sums(first, window) / window) ** 2
    variation = _window_sums((first**2).sum(axis=1), window) - means.sum(axis=1)
    energy = variation * (centre**2).sum(axis=(1, 2, 3))[:, None, None]
    scores = products / np.sqrt(np.maximum(energy, 1.0))  # a flat picture correlates with none
    return np.asarray(scores.max(axis=(1, 2)), np.float32)


def detail(pixels: np.ndarray) -> np.ndarray:
    """float32 (n, 3, SIDE, SIDE) of uint8 (n, SIDE, SIDE, 3): what lies between BAND's blurs."""
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
    # Rows and columns are blurred by products with a matrix: eight times as fast as a filter.
    fine, coarse = (gaussian_filter1d(np.eye(SIDE, dtype=np.float32), s, axis=0) for s in BAND)
    return np.asarray(fine @ planes @ fine.T - coarse @ planes @ coarse.T)


def sketch(pixels: np.ndarray) -> np.ndarray:
    """float32 (n, 3 * CELLS ** 2), rows of unit length: cell means less each channel's own mean.

    The cosine of two sketches is the correlation of two thumbnails: quick, and hardly moved by a
    shift of a pixel or two.
    """
    n, cell = len(pixels), SIDE // CELLS
    cells = pixels.reshape(n, CELLS, cell, CELLS, cell, 3).mean(axis=(2, 4), dtype=np.float32)
    return unit_rows((cells - cells.mean(axis=(1, 2), keepdims=True)).reshape(n, -1))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """float32, the rows (n, d) scaled to unit length; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-6), np.float32)


def _small(images: ImageSet) -> np.ndarray:
    """uint8 (n, SIDE, SIDE, 3)."""
    small = np.empty((len(images), SIDE, SIDE, 3), np.uint8)
    for start in range(0, len(images), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(images)))
        pixels = images.read(rows)
        if images.side != SIDE:
            pixels = np.stack([np.asarray(Image.fromarray(p).resize((SIDE, SIDE))) for p in pixels])
        small[rows] = pixels
    return small


def _identical(first: ImageSet, second: ImageSet) -> np.ndarray:
    """int64 (k, 3), as `_neighbours`: a picture without any detail has no nearest one."""
    rows = {digest: row for row, digest in enumerate(second.digests)}
    both = [(row, rows[d], 0) for row, d in enumerate(first.digests) if d in rows]
    return np.array(both, np.int64).reshape(-1, 3)


def _neighbours(measure: Features) -> np.ndarray:
    """int64 (k, 3): row of the first set, row of the second, whether mirrored."""
    count = min(NEIGHBOURS + 1, len(measure.second))  # in its own set, an image is its nearest
    found = []
    for mirrored, queries in enumerate((measure.first, measure.first_mirrored)):
        for start in range(0, len(queries), _BLOCK):
            products = queries[start : start + _BLOCK] @ measure.second.T
            nearest = np.argpartition(products, -count, axis=1)[:, -count:]
            rows = np.repeat(np.arange(start, start + len(nearest)), count)
            found.append(np.stack([rows, nearest.ravel(), np.full(len(rows), mirrored)], axis=1))
    return np.concatenate(found)


def _measured(
    mine: np.ndarray, theirs: np.ndarray, found: np.ndarray, features: Features | None
) -> Pairs:
    first, second, mirrored = found[:, 0], found[:, 1], found[:, 2] == 1
    a, b = mine[first], theirs[second]
    levels = np.abs(a.astype(np.int16) - b).mean(axis=(1, 2, 3), dtype=np.float32)
    b[mirrored] = b[mirrored][:, :, ::-1]
    correlation = correlate(detail(a), detail(b))
    worth = np.flatnonzero(correlation >= WORTH_ZOOMING)
    for one, other in _zoomed(a[worth], b[worth]):
        correlation[worth] = np.maximum(correlation[worth], correlate(detail(one), detail(other)))
    cosine = np.full(len(found), np.nan, np.float32)
    if features is not None:
        own = np.where(mirrored[:, None], features.first_mirrored[first], features.first[first])
        cosine = (own * features.second[second]).sum(axis=1)
    return Pairs(first, second, mirrored, correlation, cosine, levels)


def _zoomed(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The two with one of them enlarged, every way. None is shrunk: that would leave a margin."""
    for zoom in ZOOMS:
        yield enlarge(a, zoom), b
        yield a, enlarge(b, zoom)


def enlarge(pixels: np.ndarray, zoom: float) -> np.ndarray:
    """uint8, as `pixels` (n, SIDE, SIDE, 3): the centre of each, `zoom` times as large."""
    margin = SIDE * (1 - 1 / zoom) / 2
    box = (margin, margin, SIDE - margin, SIDE - margin)
    large = np.empty_like(pixels)
    for i, picture in enumerate(pixels):
        resized = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)
        large[i] = np.asarray(resized)
    return large


def _confirmed(pairs: Pairs) -> Pairs:
    """Those that are duplicates, the surest first; a pair once, the way round that fits best."""
    agreed = (pairs.correlation >= LIKELY) & (pairs.cosine >= AGREES)
    pairs = pairs.pick(pairs.exact | (pairs.correlation >= NEAR) | agreed)
    pairs = pairs.pick(np.lexsort((-pairs.correlation, ~pairs.exact)))
    _, first_met = np.unique(
        np.stack([pairs.first, pairs.second], axis=1), axis=0, return_index=True
    )
    return pairs.pick(np.sort(first_met))


def _window_sums(x: np.ndarray, side: int) -> np.ndarray:
    """Sums of x (..., S, S) over every window of `side`: (..., S - side + 1, S - side + 1)."""
    for axis in (-2, -1):
        sums = np.moveaxis(x.cumsum(axis=axis), axis, -1)
        sums = np.concatenate(
            [sums[..., side - 1 : side], sums[..., side:] - sums[..., :-side]], axis=-1
        )
        x = np.moveaxis(sums, -1, axis)
    return x
