"""Golden images: test images that a run keeps, so that its answers can be checked anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.data import ImageSet
from headstart.errors import RunError
from headstart.files import read_arrays, write_arrays
from headstart.rundir.run import Run

IMAGES = 32
FILE = "golden.npz"


@dataclass(frozen=True)
class Kept:
    """rows: int64 (n,), of the test predictions. pixels: uint8 (n, side, side, 3)."""

    rows: np.ndarray
    pixels: np.ndarray


def spread_rows(total: int) -> np.ndarray:
    """IMAGES rows, or all, spread over a test split."""
    return np.unique(np.linspace(0, total - 1, IMAGES).astype(np.int64))


def keep_images(run: Run, test: ImageSet) -> Kept:
    """Write golden.npz into a run directory."""
    rows = spread_rows(len(test))
    kept = Kept(rows, test.read(rows))
    write_arrays(run.place(FILE), {"rows": kept.rows, "pixels": kept.pixels})
    return kept


def kept_images(run: Run, test: ImageSet | None) -> Kept:
    """From the test images, or from golden.npz. Raises RunError where neither is there."""
    if test is not None:
        rows = spread_rows(len(test))
        return Kept(rows, test.read(rows))
    path = run.path / FILE
    try:
        arrays = read_arrays(path)
    except FileNotFoundError:
        raise RunError(
            f"{path}: missing, and the images are gone: nothing can be checked"
        ) from None
    side, known = run.provenance.data.side, len(run.predictions("test").ids)
    found, seen = arrays.get("rows"), arrays.get("pixels")
    if found is None or seen is None or found.dtype != np.int64 or seen.dtype != np.uint8:
        raise RunError(f"{path}: damaged: its arrays are not those of a run")
    inside = found.ndim == 1 and len(found) and bool(((found >= 0) & (found < known)).all())
    if not inside or seen.shape != (len(found), side, side, 3):
        raise RunError(f"{path}: damaged: its images are not those of this run")
    return Kept(found, seen)
