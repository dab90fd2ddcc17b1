"""Repeated folds: their time, and how often their interval holds the truth.

    python bench/folds.py [--sets N]

time: 5 x 5 folds over the features of 1,000 photos, 1,280 each, 12 classes.

coverage: planted sets of normal clusters. The truth is the accuracy, on 10,000 new images, of the
head that is fitted to the whole set. 95 % is claimed, of repeated folds and of one test split.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from harness import machine_line

from headstart.assessment.repeated_folds import repeated_folds
from headstart.evaluation.statistics import wilson_interval
from headstart.training.solver import Table, solve_path

L2 = 0.1
# images, features, classes, distance of the clusters from their middle
PLANTED = (
    (60, 40, 3, 3.0),
    (100, 20, 2, 1.5),
    (100, 20, 4, 2.5),
    (100, 20, 4, 4.5),
    (300, 40, 5, 3.0),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=400)
    options = parser.parse_args()
    print(machine_line(1))
    rng = np.random.default_rng(0)
    pool = planted(1000, rng, centres(12, 1280, 6.0, rng))
    began = time.perf_counter()
    repeated_folds(pool, keys(1000), 12, 5, 5, L2, 0)
    print(f"5 x 5 folds over 1,000 photos: {time.perf_counter() - began:.1f} s")
    titles = ("images", "classes", "truth", "folds", "held", "one split", "half width")
    print("".join(f"{title:>12}" for title in titles))
    for shape in PLANTED:
        print(coverage(*shape, options.sets), flush=True)


def coverage(n: int, features: int, classes: int, distance: float, sets: int) -> str:
    rows = []
    for number in range(sets):
        rng = np.random.default_rng(number)
        middle = centres(classes, features, distance, rng)
        pool, new = planted(n, rng, middle), planted(10_000, rng, middle)
        (whole,) = solve_path(pool, new, classes, l2_path=[L2], refine=False)
        truth = whole.val_accuracy
        found = repeated_folds(pool, keys(n), classes, 5, 5, L2, number)
        tested = np.arange(n) % 5 == 0  # one test split of a fifth
        train = Table(pool.features[~tested], pool.labels[~tested])
        test = Table(pool.features[tested], pool.labels[tested])
        (one,) = solve_path(train, test, classes, l2_path=[L2], refine=False)
        low, high = wilson_interval(one.val_accuracy * tested.sum(), int(tested.sum()))
        rows.append(
            (truth, found.accuracy, found.low <= truth <= found.high, low <= truth <= high,
             (found.high - found.low) / 2)
        )  # fmt: skip
    truth, accuracy, held, single, half = np.mean(rows, axis=0)
    shares = f"{truth:>12.3f}{accuracy:>12.3f}{held:>12.1%}{single:>12.1%}{half:>12.3f}"
    return f"{n:>12,}{classes:>12}{shares}"


def centres(classes: int, features: int, distance: float, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.normal(size=(classes, features))
    return np.asarray(distance * drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def planted(n: int, rng: np.random.Generator, middle: np.ndarray) -> Table:
    labels = np.arange(n) % len(middle)
    features = middle[labels] + rng.normal(size=(n, middle.shape[1]))
    return Table(torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels))


def keys(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint64)


if __name__ == "__main__":
    main()
