"""Tables of photos with several labels each: grids of real images, tinted by their classes so that
a small network can tell them, or a grey, which has no label."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.data.sources.mini import open_mini

CLASSES = 4
TINTS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])


def write_many(root: Path, count: int = 240, side: int = 32, seed: int = 0) -> Path:
    """A table of `count` photos, each a grid of four pictures of at most three of CLASSES classes,
    and its split; every fifteenth photo is grey and has no label."""
    source = open_mini()
    rng = np.random.default_rng(seed)
    names, pool = source.class_names[:CLASSES], source.train
    rows = [np.flatnonzero(pool.labels == c) for c in range(CLASSES)]
    root.mkdir(parents=True, exist_ok=True)
    lines = [("path", "label", "split")]
    for number in range(count):
        held = np.sort(rng.choice(CLASSES, rng.integers(1, 4), replace=False))
        filled = np.concatenate([held, rng.choice(held, 4 - len(held))])
        filled = rng.permutation(filled)
        pixels = pool.read(np.array([rng.choice(rows[c]) for c in filled]))
        pixels = (0.5 * pixels + 0.5 * TINTS[filled, None, None]).astype(np.uint8)
        grid = np.vstack([np.hstack([*pixels[:2]]), np.hstack([*pixels[2:]])])
        if number % 15 == 14:
            grid, held = np.full_like(grid, number), held[:0]
        path = f"{number:04}.png"
        Image.fromarray(grid).resize((side, side)).save(root / path)
        label = "|".join(names[c] for c in held)
        lines.append((path, label, "test" if number % 4 == 3 else "train"))
    table = root / "labels.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return table
