"""A labelled grid of sample images, to look at before training on them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headstart.data.images import ImageSet
from headstart.data.splits import class_ranks
from headstart.data.strata import label_text
from headstart.files import atomic_path
from headstart.text.captions import captions
from headstart_predict.plain import shorten_middle

TITLE = 18  # characters over a picture
_CELL_INCHES = 1.15
_TITLE_INCHES = 0.22


def sample_grid(
    images: ImageSet,
    class_names: Sequence[str],
    out: Path,
    *,
    rows: int = 4,
    cols: int = 8,
    seed: int = 0,
) -> Path:
    """Draw random images with their class names to a PNG at `out`, as evenly over the classes as
    possible. The same arguments give the same picture."""
    chosen = choose_samples(images.strata, rows * cols, seed)
    named = captions(class_names, TITLE)
    titles = [label_text(images.labels[row, ...], named) for row in chosen]
    return draw_grid(images.read(chosen), titles, out, cols=min(cols, len(chosen)))


def draw_grid(pixels: np.ndarray, titles: Sequence[str], out: Path, *, cols: int) -> Path:
    """Draw images, uint8 (n, P, P, 3), with a title each, in rows of `cols`, to a PNG at `out`."""
    from matplotlib.figure import Figure  # here, because the import takes half a second

    rows = math.ceil(len(pixels) / cols)
    figure = Figure(
        figsize=(cols * _CELL_INCHES, rows * (_CELL_INCHES + _TITLE_INCHES)),
        dpi=160,
        layout="constrained",
    )
    axes = figure.subplots(rows, cols, squeeze=False).ravel()
    # Small images look better smoothed than as large squares. Large ones are reduced anyway.
    smoothing = "bicubic" if pixels.shape[1] < 100 else "antialiased"
    for axis, picture, title in zip(axes, pixels, titles, strict=False):
        axis.imshow(picture, interpolation=smoothing)
        axis.set_title(shorten_middle(title, TITLE), fontsize=8, pad=3, parse_math=False)
    for axis in axes:
        axis.set_axis_off()
    with atomic_path(out) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(partial, format="png", facecolor="white")
    return out


def choose_samples(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """int64 (min(count, n),): random rows, the same number of each class as far as possible.

    Sorted by class, so that a grid is easy to read.
    """
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(labels))
    class_order = random.permutation(int(labels.max(initial=0)) + 1)
    nth = class_ranks(labels, shuffled.argsort())  # of its class, in the shuffled order
    by_round = np.lexsort((class_order.argsort()[labels], nth))
    chosen = by_round[:count]
    return chosen[np.lexsort((nth[chosen], labels[chosen]))]
