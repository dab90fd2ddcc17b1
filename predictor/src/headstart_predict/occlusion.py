"""Where a model looks: how much its answer loses when a part of the picture is covered.

The method of Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2014). It
needs no gradients, so any engine can do it.
"""

from __future__ import annotations

import numpy as np

from headstart_predict.framing import PADDING

GRID = 8  # places a side
_COVERED = 2  # places a side of what is covered at once: smaller parts are seldom missed


def covered(pixels: np.ndarray) -> np.ndarray:
    """The picture with each part covered in turn: uint8 (n, side, side, 3) of (side, side, 3).

    n is (GRID + 1) squared. The parts overlap by half and reach over the edges, so that each place
    of the grid is covered four times.
    """
    side = len(pixels)
    edges = np.rint(np.linspace(0, side, GRID + 1)).astype(int)
    found = np.repeat(pixels[None], (GRID + 1) ** 2, axis=0)
    for number, image in enumerate(found):
        rows, columns = (_span(edges, place) for place in divmod(number, GRID + 1))
        image[rows, columns] = PADDING
    return found


def _span(edges: np.ndarray, place: int) -> slice:
    first, last = max(place - _COVERED + 1, 0), min(place + 1, GRID)
    return slice(edges[first], edges[last])


def grid_of(whole: float, parts: np.ndarray) -> np.ndarray:
    """float64 (GRID, GRID), 0 to 1: how much each place matters; all 0 where none does.

    whole: the logit of the class for the whole picture. parts (n,): those of `covered`.
    """
    lost = np.maximum(whole - parts.astype(np.float64), 0).reshape(GRID + 1, GRID + 1)
    # A place is covered by four parts: the mean of what they cost.
    grid = (lost[:-1, :-1] + lost[1:, :-1] + lost[:-1, 1:] + lost[1:, 1:]) / 4
    most = grid.max()
    return np.asarray(grid / most if most > 0 else grid)
