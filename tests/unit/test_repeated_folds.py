"""Repeated folds: every labelled image is predicted, by heads that did not see it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headstart.assessment.repeated_folds import repeated_folds
from headstart.evaluation.statistics import repeated_interval, wilson_interval
from headstart.training.solver import Table


def blobs(n: int, rng: np.random.Generator, centres: np.ndarray) -> Table:
    labels = np.arange(n) % len(centres)
    features = centres[labels] + rng.normal(size=(n, centres.shape[1]))
    return Table(torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels))


def keys(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint64)


def test_labels_that_the_features_say_nothing_of_are_answered_at_chance() -> None:
    rng = np.random.default_rng(0)
    pool = blobs(200, rng, np.zeros((4, 300)))  # more features than images: a head learns them all
    found = repeated_folds(pool, keys(200), 4, 5, 3, 1e-3, 0)
    assert 0.15 < found.accuracy < 0.35
    assert found.low < 0.25 < found.high
    assert found.least <= found.accuracy <= found.most
    assert (found.n, found.folds, found.repeats) == (200, 5, 3)


def test_each_repeat_draws_other_folds_and_the_seed_decides_them() -> None:
    rng = np.random.default_rng(1)
    pool = blobs(120, rng, 0.5 * rng.normal(size=(3, 20)))
    first, again, other = (
        repeated_folds(pool, keys(120), 3, 5, 4, 0.1, seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.least < first.most
    assert first != other


@pytest.mark.parametrize(("n", "classes"), [(100, 4), (60, 2)])
def test_the_interval_holds_the_accuracy_on_new_images(n: int, classes: int) -> None:
    """Of the head that is fitted to all images, over planted sets; 95 % are claimed.
    `bench/folds.py` plants 400 sets."""
    held = 0
    for number in range(40):
        rng = np.random.default_rng(number)
        centres = rng.normal(size=(classes, 10))
        centres *= 2.2 / np.linalg.norm(centres, axis=1, keepdims=True)
        pool, new = blobs(n, rng, centres), blobs(4000, rng, centres)
        found = repeated_folds(pool, keys(n), classes, 5, 2, 0.1, number)
        held += found.low <= accuracy_of_all(pool, new, classes) <= found.high
    assert held >= 33  # with 93 % of 40 sets, 99 of 100 seeds reach it


def accuracy_of_all(pool: Table, new: Table, classes: int) -> float:
    from headstart.training.solver import solve_path

    (solution,) = solve_path(pool, new, classes, l2_path=[0.1])
    return solution.val_accuracy


def test_the_interval_is_wider_than_that_of_independent_images() -> None:
    right = np.array([1.0] * 80 + [0.0] * 20)
    low, high = repeated_interval(right, 5)
    plain = wilson_interval(80, 100)
    assert low < plain[0] < plain[1] < high
    assert repeated_interval(right, 20)[0] > low  # folds that share more of their images
