"""Solved heads for several labels an image: one logistic regression a class, all at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from headstart.training.folds import cross_fit
from headstart.training.solver import L2_PATH, Joined, Table, solve_path
from headstart.training.targets import LOSS_CAP, MANY, targets_of
from tests.unit.test_solver import scaled

K = 5


@pytest.fixture(scope="module")
def tables() -> tuple[Table, Table]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 20, generator=generator) * torch.logspace(-1, 1, 20) + 3
    slopes = torch.randn(K, 20, generator=generator)
    rate = torch.tensor([0.02, 0.05, 0.2, 0.5, 0.9])
    scores = scaled(x).float() @ slopes.T + 2 * torch.randn(600, K, generator=generator)
    y = torch.stack([s > s.quantile(1 - r) for s, r in zip(scores.T, rate, strict=True)], dim=1)
    return Table(x[:400], y[:400]), Table(x[400:], y[400:])


@pytest.mark.parametrize("l2", [0.3, 0.01])
def test_it_is_the_optimum_of_one_logistic_regression_a_class(
    tables: tuple[Table, Table], l2: float
) -> None:
    train, val = tables
    (solution,) = solve_path(train, val, K, l2_path=[l2])
    z = scaled(train.features).numpy()
    got = (train.features @ solution.weight.T + solution.bias).double().numpy()
    loss = 0.0
    for c in range(K):
        held = train.labels[:, c].numpy()
        alone = LogisticRegression(C=1 / (l2 * len(z)), tol=1e-10, max_iter=10_000).fit(z, held)
        expected = alone.decision_function(z)
        assert np.abs(got[:, c] - expected).max() < 0.03
        loss += float(np.logaddexp(0, np.where(held, -expected, expected)).mean())
    assert solution.train_loss == pytest.approx(loss, abs=1e-3)
    right = (got > 0) == train.labels.numpy()
    assert solution.train_accuracy == pytest.approx(right.mean())


def test_validation_chooses_one_penalty_for_all(tables: tuple[Table, Table]) -> None:
    train, val = tables
    path = solve_path(train, val, K)
    (chosen,) = [s for s in path if s.chosen]
    assert min(L2_PATH) < chosen.l2 < max(L2_PATH)
    logits = val.features @ chosen.weight.T + chosen.bias
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, val.labels.float(), reduction="none"
    )
    assert chosen.val_loss == pytest.approx(float(each.sum(dim=1).mean()), abs=1e-4)
    capped = float(each.clamp_max(LOSS_CAP).sum(dim=1).mean())
    assert chosen.criterion == pytest.approx(capped, abs=1e-4)


def test_several_penalties_in_one_pass_are_those_one_by_one(tables: tuple[Table, Table]) -> None:
    train, val = tables
    fine = [float(l2) for l2 in np.logspace(0, -3, 25)]
    together = {s.l2: s for s in solve_path(train, val, K, l2_path=fine)}
    for l2 in fine[4:12:4]:
        (alone,) = solve_path(train, val, K, l2_path=[l2])
        assert together[l2].val_loss == pytest.approx(alone.val_loss, abs=5e-3)


def test_tables_and_folds_hold_sets_of_labels(tables: tuple[Table, Table]) -> None:
    train, val = tables
    both = Joined((train, val))
    (one,) = solve_path(both, val, K, l2_path=[0.1])
    whole = Table(torch.cat([train.features, val.features]), both.labels)
    (other,) = solve_path(whole, val, K, l2_path=[0.1])
    assert torch.allclose(one.weight, other.weight, atol=1e-4)
    crossed = cross_fit(whole, np.arange(600) % 5, K, l2_path=[1.0, 0.1, 0.01])
    assert crossed.logits.shape == (600, K)
    best = min(crossed.scores, key=lambda score: score.criterion)
    assert crossed.l2 == best.l2
    losses = MANY.losses(crossed.logits, whole.labels)
    assert best.val_loss == pytest.approx(float(losses.mean()))
    assert targets_of(whole.labels) is MANY
