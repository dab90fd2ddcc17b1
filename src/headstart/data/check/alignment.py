"""Alignment: how well the detail of two pictures correlates when one is moved and enlarged to fit.

Brightness, contrast and tint do not count. Shifts and zooms are shares of the picture, so the same
search works for thumbnails and larger squares. The scale of detail is in pixels, so larger squares
show finer detail.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter1d

# Pixels a side of a thumbnail, and those by which two may be moved against each other along
# either axis.
SIDE, SHIFT = 32, 3
# How much either of the two may be enlarged around its centre.
ZOOMS = (1.08, 1.17, 1.27)
# Detail is the difference of two blurs with these standard deviations, in pixels. What is finer is
# noise of resampling and JPEG. What is coarser is common to many pictures, such as a dark shape on
# a bright ground: most ships and planes.
BAND = (0.7, 3.0)
# Logarithms of the zoom that `align` tries: on thumbnails, then around the best of these.
_WIDE = (0.0, *(sign * float(np.log(zoom)) for zoom in ZOOMS for sign in (1, -1)))
_NARROW = ((0.0,), (0.04, -0.04), (0.02, -0.02))
_CELLS = 8  # along each side of the grid that detail may be spread over


class Prepared(NamedTuple):
    """The part of a correlation that depends on one picture, computed once for all its partners.

    spectra: complex64 (n, 3, S, S // 2 + 1). energy: float32; of a ground (n, k, k), one value for
    the window of each shift; of an overlay (n, 1, 1).
    """

    spectra: np.ndarray
    energy: np.ndarray

    def pick(self, rows: np.ndarray) -> Prepared:
        return Prepared(self.spectra[rows], self.energy[rows])


def ground(first: np.ndarray) -> Prepared:
    """Prepare `detail` (n, 3, S, S) of pictures whose windows others are laid over."""
    window = _window(first)
    means = (_window_sums(first, window) / window) ** 2
    variation = _window_sums((first**2).sum(axis=1), window) - means.sum(axis=1)
    return Prepared(fft.rfft2(first), variation)


def overlay(second: np.ndarray) -> Prepared:
    """Prepare `detail` (n, 3, S, S) of pictures whose centres are laid over others."""
    side = second.shape[-1]
    shift = (side - _window(second)) // 2
    centre = second[:, :, shift:-shift, shift:-shift]
    centre = centre - centre.mean(axis=(2, 3), keepdims=True)
    energy = (centre**2).sum(axis=(1, 2, 3))[:, None, None]
    return Prepared(fft.rfft2(centre, (side, side)).conj(), energy)


def scores(first: Prepared, second: Prepared) -> np.ndarray:
    """float32 (n, k, k): how well each overlay fits its ground, -1..1, at each shift.

    Normalised cross-correlation, with numerators by FFT (Lewis 1995). Each channel's mean is
    subtracted, so a tint does not matter. All channels share one scale, so a channel without detail
    does not matter.
    """
    side, shifts = first.spectra.shape[2], first.energy.shape[1]
    spectrum = (first.spectra * second.spectra).sum(axis=1)
    products = fft.irfft2(spectrum, (side, side))[:, :shifts, :shifts]
    # A flat picture correlates with none.
    return np.asarray(products / np.sqrt(np.maximum(first.energy * second.energy, 1.0)))


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 (n,): how well the `detail` of two pictures correlates, -1..1, at the best shift."""
    return np.asarray(_scores(first, second).max(axis=(1, 2)), np.float32)


def detail(pixels: np.ndarray) -> np.ndarray:
    """float32 (n, 3, S, S) of uint8 (n, S, S, 3): the difference of BAND's two blurs."""
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
    # Matrix products blur rows and columns eight times as fast as a filter.
    fine, coarse = (_blur(pixels.shape[1], sigma) for sigma in BAND)
    return np.asarray(fine @ planes @ fine.T - coarse @ planes @ coarse.T)


def enlarge(pixels: np.ndarray, zoom: float | np.ndarray) -> np.ndarray:
    """uint8, as `pixels` (n, S, S, 3): the centre of each, `zoom` (one, or (n,)) times as large."""
    zooms = np.broadcast_to(np.asarray(zoom, float), len(pixels))
    large = pixels.copy()
    for each in np.unique(zooms[zooms > 1]).tolist():
        rows = np.flatnonzero(zooms == each)
        matrix = _enlarging(pixels.shape[1], each)
        planes = pixels[rows].transpose(0, 3, 1, 2).astype(np.float32)
        enlarged = (matrix @ planes @ matrix.T).transpose(0, 2, 3, 1)
        large[rows] = enlarged.round().clip(0, 255).astype(np.uint8)
    return large


def align(first: np.ndarray, second: np.ndarray, enough: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit pairs of pictures, uint8 (n, S, S, 3); S is a multiple of SIDE.

    Returns correlation and spread, float32 (n,) each. correlation: at the best shift and zoom; the
    search ends when it reaches `enough`. spread: the share of the picture that common detail fills,
    1 where it is even. It is the participation ratio of the detail's energy over cells: a few
    strokes on an empty ground give 0.1 to 0.3, photos of flowers 0.3 to 0.8.
    """
    zooms, _ = _search(_shrunk(first), _shrunk(second), np.zeros(len(first)), (_WIDE,), enough)
    zooms, best = _search(first, second, zooms, _NARROW, enough)
    a, b = (detail(pixels) for pixels in _laid(first, second, zooms))
    return best, _spread(a, b)


def _search(
    first: np.ndarray,
    second: np.ndarray,
    zooms: np.ndarray,
    rounds: Sequence[Sequence[float]],
    enough: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The best zoom of each pair, as its logarithm, and the correlation there."""
    best = np.full(len(first), -np.inf, np.float32)
    for steps in rounds:
        centre = zooms.copy()
        for step in steps:
            rows = np.flatnonzero(best < enough)
            if not len(rows):
                break
            tried = centre[rows] + step
            a, b = _laid(first[rows], second[rows], tried)
            correlations = correlate(detail(a), detail(b))
            better = correlations > best[rows]
            zooms[rows[better]], best[rows[better]] = tried[better], correlations[better]
    return zooms, best


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """uint8 (n, SIDE, SIDE, 3): means over squares of the pictures' pixels."""
    n, side = pixels.shape[:2]
    cell = side // SIDE
    cells = pixels.reshape(n, SIDE, cell, SIDE, cell, 3)
    return np.asarray(cells.mean(axis=(2, 4), dtype=np.float32).round(), np.uint8)


def _laid(
    first: np.ndarray, second: np.ndarray, zooms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge the first picture where the logarithm of the zoom is above 0, the second where it is
    below."""
    factors = np.exp(np.abs(zooms))
    return (
        enlarge(first, np.where(zooms > 0, factors, 1)),
        enlarge(second, np.where(zooms < 0, factors, 1)),
    )


def _spread(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 (n,): the share of the picture that the common detail fills."""
    window = _window(first)
    shift = (first.shape[-1] - window) // 2
    best = _scores(first, second).reshape(len(first), -1).argmax(axis=1)
    spread = np.empty(len(first), np.float32)
    edges = np.linspace(0, window, _CELLS + 1).astype(int)[:-1]
    for i, (row, column) in enumerate(zip(*divmod(best, 2 * shift + 1), strict=True)):
        a = first[i, :, row : row + window, column : column + window]
        b = second[i, :, shift : shift + window, shift : shift + window]
        energy = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
        cells = np.add.reduceat(np.add.reduceat(energy, edges, axis=0), edges, axis=1)
        spread[i] = cells.sum() ** 2 / max(cells.size * (cells**2).sum(), 1e-9)
    return spread


def _scores(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return scores(ground(first), overlay(second))


def _window(pictures: np.ndarray) -> int:
    """Pixels a side of the compared window: the picture less the largest shift at both ends."""
    side = pictures.shape[-1]
    return int(side - 2 * (side * SHIFT // SIDE))


@cache
def _blur(side: int, sigma: float) -> np.ndarray:
    return np.asarray(gaussian_filter1d(np.eye(side, dtype=np.float32), sigma, axis=0))


@cache
def _enlarging(side: int, zoom: float) -> np.ndarray:
    """float32 (side, side): the matrix that enlarges the centre of a row or column, by Pillow's
    bicubic kernel.

    For many pictures, a product with it is ten times as fast as Pillow's resize of each.
    """
    places = side * (1 - 1 / zoom) / 2 + (np.arange(side) + 0.5) / zoom - 0.5
    far = np.abs(places[:, None] - np.arange(side))
    near = (1.5 * far - 2.5) * far**2 + 1
    weights = np.where(far < 1, near, ((-0.5 * far + 2.5) * far - 4) * far + 2) * (far < 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _window_sums(x: np.ndarray, side: int) -> np.ndarray:
    """Sums of x (..., S, S) over every window of `side`: (..., S - side + 1, S - side + 1)."""
    for axis in (-2, -1):
        sums = np.moveaxis(x.cumsum(axis=axis), axis, -1)
        sums = np.concatenate(
            [sums[..., side - 1 : side], sums[..., side:] - sums[..., :-side]], axis=-1
        )
        x = np.moveaxis(sums, -1, axis)
    return x
