"""Where a model looks, by covering parts of the picture."""

from __future__ import annotations

import numpy as np

from headstart_predict.framing import PADDING
from headstart_predict.occlusion import GRID, covered, grid_of


def test_every_place_is_covered_four_times() -> None:
    pixels = np.zeros((37, 37, 3), np.uint8)
    parts = covered(pixels)
    assert parts.shape == ((GRID + 1) ** 2, 37, 37, 3)
    times = (parts == np.array(PADDING, np.uint8)).all(axis=3).sum(axis=0)
    assert (times == 4).all()


def test_the_place_that_the_answer_hangs_on_is_found() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:24, 40:48] = 255  # row 2, column 5 of the grid
    score = (covered(pixels) == 255).all(axis=3).sum(axis=(1, 2))
    grid = grid_of(64.0, score)
    assert np.unravel_index(grid.argmax(), grid.shape) == (2, 5)
    assert grid.max() == 1
    assert grid[6, 1] == 0


def test_a_part_that_speaks_against_the_class_does_not_count() -> None:
    assert (grid_of(1.0, np.full((GRID + 1) ** 2, 2.0)) == 0).all()
