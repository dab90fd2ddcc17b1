"""Alignment: how well the detail of two pictures correlates once one is moved and enlarged to fit.

Brightness, contrast and tint do not count. Shifts and zooms are shares of the picture, so that the
same search serves thumbnails and larger squares; detail is in pixels, and so finer in the larger.
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
# Standard deviations, in pixels, of the blurs between which "detail" lies. Finer is resampling and
# JPEG noise; coarser is a dark shape on a bright ground, which most ships and planes are.
BAND = (0.7, 3.0)
# Logarithms of the zoom that `align` tries: on thumbnails, then around the best of these.
_WIDE = (0.0, *(sign * float(np.log(zoom)) for zoom in ZOOMS for sign in (1, -1)))
_NARROW = ((0.0,), (0.04, -0.04), (0.02, -0.02))
_CELLS = 8  # along each side of the grid that detail may be spread over


class Prepared(NamedTuple):
    """What correlating needs of pictures, computed once for all their partners.

    spectra: complex64 (n, 3, S, S // 2 + 1); energy: float32 (n, k, k) of each shift's window in a
    ground, (n, 1, 1) of an overlay.
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

    Each channel's mean is taken out, so that a tint does not matter; one scale is shared by the
    channels, so that a channel without detail does not either (normalised cross-correlation, its
    numerators by FFT: Lewis 1995).
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
    """float32 (n, 3, S, S) of uint8 (n, S, S, 3): what lies between BAND's blurs."""
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
    # Rows and columns are blurred by products with a matrix: eight times as fast as a filter.
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
    """Fit pairs of pictures, uint8 (n, S, S, 3): their correlation, and the spread of what agrees.

    S is a multiple of SIDE. Returns float32 (n,) twice. correlation: at the best shift and zoom;
    the search ends at `enough`. spread: the share of the picture that common detail fills, 1 where
    it is even. It is the participation ratio of the detail's energy over cells: a few strokes on
    an empty ground fill 0.1 to 0.3, photos of flowers 0.3 to 0.8.
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
    """The first enlarged where the logarithm of the zoom is above 0, the second where below."""
    factors = np.exp(np.abs(zooms))
    return (
        enlarge(first, np.where(zooms > 0, factors, 1)),
        enlarge(second, np.where(zooms < 0, factors, 1)),
    )


def _spread(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 (n,): over how much of the picture the common detail of two is spread."""
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
    """Pixels a side of what is compared: a picture less the largest shift at both ends."""
    side = pictures.shape[-1]
    return int(side - 2 * (side * SHIFT // SIDE))


@cache
def _blur(side: int, sigma: float) -> np.ndarray:
    return np.asarray(gaussian_filter1d(np.eye(side, dtype=np.float32), sigma, axis=0))


@cache
def _enlarging(side: int, zoom: float) -> np.ndarray:
    """float32 (side, side): a row's, or column's, centre enlarged, by Pillow's bicubic kernel.

    A product with it is ten times as fast for many pictures as Pillow's own resize of each.
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
