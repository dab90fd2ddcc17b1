"""Folds: every image held out once, a penalty chosen on all of them, honest predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headstart.training.folds import FOLDS, assign_folds, cross_fit, folds_pay
from headstart.training.solver import Table, solve_path
from headstart.training.solving import starting_penalty


def blobs(n: int, classes: int, spread: float, seed: int = 0) -> Table:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 40, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % classes
    return Table(centres[labels] + spread * torch.randn(n, 40, generator=generator), labels)


def folds_of(table: Table) -> np.ndarray:
    return assign_folds(table.labels.numpy(), np.arange(len(table.labels), dtype=np.uint64), 7)


def test_a_class_is_spread_evenly_over_the_folds_whatever_the_order_of_the_images() -> None:
    labels = np.repeat(np.arange(3), [52, 7, 21])
    keys = np.random.default_rng(0).integers(0, 2**63, len(labels)).astype(np.uint64)
    folds = assign_folds(labels, keys, 0)
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    order = np.random.default_rng(1).permutation(len(labels))
    assert (assign_folds(labels[order], keys[order], 0) == folds[order]).all()
    assert (assign_folds(labels, keys, 1) != folds).any()


def test_no_image_is_answered_by_a_head_that_was_fitted_to_it() -> None:
    """Labels that features say nothing of: learnt by heart in training, at chance out of fold."""
    pool = blobs(300, 4, spread=1.0)
    labels = torch.from_numpy(np.random.default_rng(0).permutation(pool.labels.numpy()))
    pool = Table(pool.features, labels)
    crossed = cross_fit(pool, folds_of(pool), 4, l2_path=[1e-4])
    (whole,) = solve_path(pool, pool, 4, l2_path=[1e-4])
    right = (crossed.logits.argmax(dim=1) == labels).float().mean()
    assert 0.1 < right < 0.4
    assert crossed.scores[0].val_accuracy == pytest.approx(float(right))
    assert whole.train_accuracy > right + 0.2


def test_folds_choose_a_penalty_that_a_split_of_few_images_misses() -> None:
    """Over ten splits of 200 images the penalty by folds is at least as good on new images as that
    by twenty held-out ones, and varies less."""
    test = blobs(4000, 5, spread=2.5, seed=1000)
    losses: dict[str, list[float]] = {"folds": [], "split": []}
    for seed in range(10):
        pool = blobs(200, 5, spread=2.5, seed=seed)
        held = torch.arange(200) >= 180
        train, val = (Table(pool.features[k], pool.labels[k]) for k in (~held, held))
        split = next(s for s in solve_path(train, val, 5) if s.chosen)
        crossed = cross_fit(pool, folds_of(pool), 5)
        (folds,) = solve_path(pool, test, 5, l2_path=[crossed.l2])
        logits = test.features @ split.weight.T + split.bias
        losses["split"].append(float(torch.nn.functional.cross_entropy(logits, test.labels)))
        losses["folds"].append(folds.val_loss)
    assert np.mean(losses["folds"]) < np.mean(losses["split"])
    assert np.std(losses["folds"]) < np.std(losses["split"])


def test_class_weights_count_in_the_choice() -> None:
    pool = blobs(200, 2, spread=3.0)
    rare = (pool.labels == 0) | (torch.arange(200) % 20 == 1)
    pool = Table(pool.features[rare], pool.labels[rare])
    weights = torch.tensor([0.1, 1.9])
    crossed = cross_fit(pool, folds_of(pool), 2, class_weights=weights)
    own = torch.nn.functional.cross_entropy(crossed.logits, pool.labels, reduction="none")
    share = weights[pool.labels]
    score = next(s for s in crossed.scores if s.l2 == crossed.l2)
    assert score.criterion == pytest.approx(float((own * share).sum() / share.sum()), rel=1e-4)
    assert score.val_loss == pytest.approx(float(own.mean()), rel=1e-4)


def test_a_head_to_train_from_has_loss_left() -> None:
    pool = blobs(300, 5, spread=2.0)
    crossed = cross_fit(pool, folds_of(pool), 5)
    start = starting_penalty(crossed.scores, crossed.l2)
    by_l2 = {score.l2: score for score in crossed.scores}
    enough = 1.5 * by_l2[crossed.l2].val_loss
    assert crossed.l2 < start < max(by_l2)
    assert by_l2[start].train_loss >= enough
    weaker = [score for score in crossed.scores if crossed.l2 <= score.l2 < start]
    assert weaker and all(score.train_loss < enough for score in weaker)


def test_many_images_have_a_split_that_is_large_enough() -> None:
    assert folds_pay(253, 2)
    assert folds_pay(2_176, 136)
    assert not folds_pay(50_000, 10)
    assert not folds_pay(9_000, 200)  # logits of all penalties would not stay small
