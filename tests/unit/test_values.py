"""Metrics that weigh classes: their intervals cover, and their paired tests keep their level."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from headstart.errors import RecipeError
from headstart.evaluation.classes import balanced_interval, unequal
from headstart.evaluation.metrics import score, selection_value
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import LEVEL, mcnemar_p_value
from headstart.evaluation.two_classes import positive_class, two_class_curves
from headstart.evaluation.values import (
    estimate_value,
    image_values,
    swap_p_value,
    value_difference,
)

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "loss")


def drawn(
    rng: np.random.Generator, counts: tuple[int, ...], skill: float, tilt: float = 0.0
) -> Predictions:
    """Unequal classes; `tilt` is added to the logit of the first, the frequent one."""
    labels = np.repeat(np.arange(len(counts)), counts)
    logits = rng.normal(size=(len(labels), len(counts)))
    logits[np.arange(len(labels)), labels] += skill
    logits[:, 0] += tilt
    return Predictions(labels.astype(str), labels, logits.astype(np.float32))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("balanced", [False, True])
def test_an_images_values_have_the_metric_as_their_mean(metric: str, balanced: bool) -> None:
    for seed in range(3):
        p = drawn(np.random.default_rng(seed), (60, 9, 4, 0), 1.0, tilt=0.5)
        found = image_values(p, metric, balanced=balanced).mean()
        assert found == pytest.approx(selection_value(p, metric, balanced=balanced), abs=1e-12)


def test_macro_f1_moves_with_an_image_as_its_values_say() -> None:
    """Images that come twice move the metric by their influence, to first order."""
    p = drawn(np.random.default_rng(1), (3000, 500, 200), 1.0)
    values, value = image_values(p, "macro_f1"), selection_value(p, "macro_f1")
    for row in (0, 3100, 3600):
        rows = np.append(np.arange(len(p)), row)
        more = Predictions(p.ids[rows], p.labels[rows], p.logits[rows])
        moved = selection_value(more, "macro_f1") - value
        assert moved == pytest.approx((values[row] - value) / len(p), rel=0.02)


@pytest.mark.parametrize(
    ("counts", "recalls"),
    [((100, 10), (0.99, 0.9)), ((300, 30), (0.995, 0.97)), ((5,) * 12, (0.95,) * 12)],
)
def test_the_interval_of_balanced_accuracy_covers_where_small_classes_do_well(
    counts: tuple[int, ...], recalls: tuple[float, ...]
) -> None:
    rng, n = np.random.default_rng(0), np.array(counts)
    covered = 0
    for _ in range(600):
        low, high = balanced_interval(rng.binomial(n, recalls), n)
        covered += low <= np.mean(recalls) <= high
    assert 0.91 <= covered / 600 <= 0.99
    low, high = balanced_interval(n, n)
    assert low < 0.99 and high == pytest.approx(1.0)  # all right is not sure


def test_with_equal_weights_swapping_is_mcnemars_test() -> None:
    for gained, lost in ((0, 0), (3, 3), (9, 2), (30, 12)):
        differences = np.repeat([1.0, -1.0, 0.0], [gained, lost, 50])
        expected = mcnemar_p_value(gained, lost)
        assert swap_p_value(differences) == pytest.approx(expected, abs=0.012)
    one_sided = np.repeat([1.0, -1.0], [9, 2])
    assert swap_p_value(one_sided, larger=True) == pytest.approx(0.0327, abs=0.005)
    assert swap_p_value(-one_sided, larger=True) > 0.9


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_equal_models_on_unequal_classes_are_reported_apart_no_more_than_the_level(
    metric: str,
) -> None:
    rng, repeats, significant, covered = np.random.default_rng(3), 160, 0, 0
    for _ in range(repeats):
        made = [drawn(rng, (120, 20, 8), 1.5) for _ in range(2)]
        first, second = (image_values(p, metric)[None] for p in made)
        found = value_difference(first, second, made[0].labels)
        significant += found.p_value < LEVEL
        covered += found.interval[0] <= 0 <= found.interval[1]
    assert significant / repeats <= 0.08
    assert covered / repeats >= 0.92


def test_a_better_balance_at_the_same_accuracy_is_found() -> None:
    """Accuracy is equal on purpose: what the rare class gains, the frequent one loses."""
    labels = np.repeat([0, 1], [400, 40])
    wrong = np.zeros((2, 440), bool)
    wrong[0, 400:424] = True  # the first misses 24 of the rare class,
    wrong[1, :24] = True  # the second 24 of the frequent one
    made = [
        Predictions(labels.astype(str), labels, np.eye(2, dtype="f4")[labels ^ row])
        for row in wrong
    ]
    assert made[0].correct.mean() == made[1].correct.mean()
    first, second = (image_values(p, "balanced_accuracy")[None] for p in made)
    found = value_difference(first, second, labels)
    assert found.change == pytest.approx(0.27)
    assert found.p_value < 0.001 < found.interval[0]


def test_the_least_that_one_image_changes_is_in_the_metrics_unit() -> None:
    """Ten images of a rare class weigh a twentieth each, the 990 others a 1980th."""
    labels = np.repeat([0, 1], [990, 10])
    p = Predictions(labels.astype(str), labels, 3 * np.eye(2, dtype="f4")[labels])
    values = image_values(p, "balanced_accuracy")[None]
    found = value_difference(values, values, labels)
    assert found.p_value == 1
    assert found.error == pytest.approx(np.sqrt(2 * (10 / 20**2 + 990 / 1980**2) / 1000))
    equal = np.repeat([0, 1], 500)
    assert value_difference(values, values, equal).error == pytest.approx(np.sqrt(2) / 1000)


def test_a_loss_is_reported_apart_by_less_than_an_image_a_thousand() -> None:
    rng = np.random.default_rng(0)
    first = -rng.gamma(1.0, 1e-4, size=(1, 500))
    better = first + 1e-5 + rng.normal(scale=1e-6, size=(1, 500))
    found = value_difference(first, better, None)
    assert found.p_value < LEVEL and found.interval[0] > 0
    seeds = np.repeat(first, 3, axis=0) + rng.normal(scale=1e-6, size=(3, 500))
    for rows in (first, seeds, np.full((3, 500), -1e-4)):
        same = value_difference(rows, rows, None)
        assert same.change == 0 and same.p_value == pytest.approx(1)


def test_seeds_are_samples_for_every_metric() -> None:
    rng = np.random.default_rng(5)
    for metric in METRICS:
        made = [[drawn(rng, (120, 20, 8), skill) for _ in range(4)] for skill in (1.0, 3.0)]
        tables = [np.stack([image_values(p, metric) for p in own]) for own in made]
        found = value_difference(tables[0], tables[1], made[0][0].labels)
        assert found.test == "paired t over images and seeds" and found.df < 30
        assert found.p_value < LEVEL and found.interval[0] > 0
        value, (low, high) = estimate_value(made[1], metric)
        assert low < value < high
        assert value == pytest.approx(np.mean([selection_value(p, metric) for p in made[1]]))


def test_which_classes_count_as_unequal() -> None:
    assert not unequal([30, 20, 0]) and unequal([31, 20]) and not unequal([]) and not unequal([5])


def test_two_classes_agree_with_scikit_learn() -> None:
    p = drawn(np.random.default_rng(0), (70, 30), 1.0)
    for positive in (0, 1):
        found = score(p, positive=positive).two_classes
        assert found is not None and found.positive == positive
        own, sure = p.labels == positive, p.probabilities[:, positive]
        close = {"rel": 0, "abs": 1e-9}
        assert found.roc_area == pytest.approx(reference.roc_auc_score(own, sure), **close)
        area = reference.average_precision_score(own, sure)
        assert found.pr_area == pytest.approx(area, **close)
        recalls = reference.recall_score(p.labels, p.predicted, average=None)
        assert found.sensitivity.value == pytest.approx(recalls[positive], **close)
        assert found.specificity.value == pytest.approx(recalls[1 - positive], **close)
        curves = two_class_curves(p, positive)
        x, y = np.array(curves["roc"]).T
        assert np.trapezoid(y, x) == pytest.approx(found.roc_area, abs=0.01)
        assert curves["pr"][0][0] == 0.0 and curves["pr"][-1][0] == 1.0
    sure_of_all = Predictions(p.ids, p.labels, p.logits * 1e4)  # probabilities that round to 0, 1
    assert score(sure_of_all).two_classes.roc_area == score(p).two_classes.roc_area  # type: ignore[union-attr]
    assert score(drawn(np.random.default_rng(0), (70, 0), 1.0)).two_classes is None
    assert score(drawn(np.random.default_rng(0), (7, 3, 5), 1.0)).two_classes is None


def test_a_positive_class_is_one_of_two() -> None:
    names = ("ok", "scratch")
    assert (positive_class(names, None), positive_class(names, "ok")) == (1, 0)
    with pytest.raises(RecipeError, match="did you mean scratch"):
        positive_class(names, "scrach")
    with pytest.raises(RecipeError, match="for two classes, not for 3"):
        positive_class((*names, "torn"), "ok")


def test_top_5_is_reported_only_where_it_can_be_wrong() -> None:
    few = drawn(np.random.default_rng(0), (10,) * 5, 1.0)
    more = drawn(np.random.default_rng(0), (10,) * 6, 1.0)
    assert score(few).top5 is None and score(more).top5 is not None
