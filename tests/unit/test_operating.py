"""Thresholds between two classes: chosen on validation, or by the costs of errors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score, roc_curve

from headstart.evaluation import operating
from headstart.evaluation.operating import choose_thresholds, cost_threshold, measure_cut


def drawn(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities and truths: the truth is drawn from each probability."""
    rng = np.random.default_rng(seed)
    probabilities = rng.beta(2 * share, 2 * (1 - share), n).round(2)
    return probabilities, rng.random(n) < probabilities


@pytest.mark.parametrize("seed", range(4))
def test_no_other_threshold_is_better_on_validation(seed: int) -> None:
    probabilities, positive = drawn(400, 0.2, seed)
    chosen = choose_thresholds(probabilities, positive)
    false, true, _ = roc_curve(positive, probabilities, drop_intermediate=False)
    alarms, hits, _ = roc_curve(positive, probabilities >= chosen["balanced"])
    assert (hits - alarms).max() == pytest.approx((true - false).max())
    every = [f1_score(positive, probabilities >= t) for t in np.unique(probabilities)]
    assert f1_score(positive, probabilities >= chosen["f1"]) == pytest.approx(max(every))
    recall = recall_score(positive, probabilities >= chosen["recall95"])
    above = probabilities[probabilities >= chosen["recall95"]].min() + 0.005
    assert recall >= 0.95 > recall_score(positive, probabilities >= above)
    assert chosen["even"] == 0.5


def test_the_threshold_of_costs_is_the_cheapest_one() -> None:
    probabilities, positive = drawn(200_000, 0.2, 0)
    for ratio in (0.25, 1.0, 5.0):
        costs = {}
        for threshold in np.linspace(0.02, 0.98, 49):
            cut = measure_cut(threshold, probabilities, positive)
            costs[threshold] = ratio * cut.missed + cut.false_alarms
        own = measure_cut(cost_threshold(ratio), probabilities, positive)
        assert ratio * own.missed + own.false_alarms <= 1.01 * min(costs.values())


def test_a_cut_counts_both_kinds_of_error() -> None:
    probabilities = np.array([0.9, 0.6, 0.3, 0.7, 0.2])
    positive = np.array([True, True, True, False, False])
    cut = measure_cut(0.6, probabilities, positive)
    assert (cut.missed, cut.false_alarms) == (1, 1)
    assert (cut.sensitivity.value, cut.specificity.value) == (2 / 3, 0.5)
    assert cut.precision is not None
    assert (cut.precision.value, cut.precision.n) == (2 / 3, 3)
    assert measure_cut(0.95, probabilities, positive).precision is None


def test_a_few_images_choose_no_threshold() -> None:
    probabilities, positive = drawn(60, 0.1, 3)
    assert 0 < positive.sum() < operating.FEWEST
    assert choose_thresholds(probabilities, positive) == {"even": 0.5}
