"""Label efficiency: nested balanced draws, and the optimum of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from headstart.assessment import few_labels
from headstart.assessment.few_labels import L2, OwnHead, label_efficiency
from headstart.data.hashing import hash_ids
from headstart.evaluation.predictions import Predictions
from headstart.features.feeds import CachedFeed
from headstart.machine.runtime import create_runtime


def feed_of(counts: list[int], seed: int, views: int = 1) -> CachedFeed:
    """Features around a centre for each class; further views are of no use."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(len(counts), 24))
    labels = np.repeat(np.arange(len(counts)), counts)
    array = rng.normal(scale=50, size=(len(labels), views, 24)).astype(np.float32)
    array[:, 0] = centres[labels] + 1.5 * rng.normal(size=(len(labels), 24))
    keys = hash_ids(f"{seed}/{i}" for i in range(len(labels)))
    return CachedFeed(array, labels, keys, 0, create_runtime("cpu"))


@pytest.fixture(scope="module")
def evaluated() -> CachedFeed:
    return feed_of([60] * 4, seed=1)


def test_the_curve_is_of_balanced_draws(evaluated: CachedFeed) -> None:
    curve = label_efficiency(feed_of([40, 30, 25, 26], 0), evaluated, "test", seed=0, own_head=None)
    points = curve.points
    assert [(p.per_class, p.images, p.draws) for p in points] == [
        *((1, 4, 5), (5, 20, 5), (25, 100, 5))
    ]
    assert (curve.split, curve.n) == ("test", 240)
    assert points[0].accuracy < points[1].accuracy < points[2].accuracy
    assert all(p.low <= p.accuracy <= p.high for p in points)
    assert points[0].low < points[0].high


def test_pages_of_features_are_given_back_after_every_draw(evaluated: CachedFeed) -> None:
    released: list[None] = []
    feed = replace(feed_of([40, 30, 25, 26], 0), release=lambda: released.append(None))
    label_efficiency(feed, evaluated, "test", seed=0, own_head=None)
    assert len(released) == 15


def test_draws_are_nested_and_go_by_image(evaluated: CachedFeed) -> None:
    feed = feed_of([40] * 4, 0)
    first, again = (few_labels._nested(feed, seed) for seed in (1, 2))
    assert [set(feed.labels[rows]) for rows in first] == [{0}, {1}, {2}, {3}]
    assert [sorted(rows) for rows in first] == [sorted(rows) for rows in again]
    assert all((one != other).any() for one, other in zip(first, again, strict=True))
    order = np.random.default_rng(0).permutation(len(feed.labels))
    shuffled = replace(
        feed, array=feed.array[order], labels=feed.labels[order], keys=feed.keys[order]
    )
    moved = few_labels._nested(shuffled, 1)
    for one, other in zip(first, moved, strict=True):
        assert np.array_equal(feed.keys[one], shuffled.keys[other])


def test_a_point_is_the_optimum_that_scikit_learn_finds(evaluated: CachedFeed) -> None:
    """Of the first view alone: the others would drown it."""
    feed = feed_of([25] * 4, 0, views=3)
    predictions = Predictions(
        evaluated.keys.astype(str), evaluated.labels, np.eye(4)[evaluated.labels]
    )
    curve = label_efficiency(
        feed, evaluated, "val", seed=0, own_head=OwnHead(predictions, 120, "chosen by folds")
    )
    point, last = curve.points[-2:]
    x, y = feed.array[:, 0].astype(np.float64), feed.labels
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    scale = np.sqrt(deviation**2 + deviation.mean() ** 2)
    reference = LogisticRegression(C=1 / (L2 * len(x)), tol=1e-8, max_iter=1000)
    reference.fit((x - mean) / scale, y)
    expected = reference.score((evaluated.array[:, 0] - mean) / scale, evaluated.labels)
    assert point.accuracy == pytest.approx(expected, abs=1.5 / len(evaluated.labels))
    assert point.low == point.high  # 25 of 25: every draw is the same
    assert (last.per_class, last.images, last.accuracy) == (None, 120, 1.0)
    assert curve.l2_from == "fixed at 0.1 for the draws, chosen by folds for all images"


def test_large_subsets_have_fewer_draws_and_the_largest_are_left_out(
    evaluated: CachedFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_labels, "DRAWN_IMAGES", 50)
    monkeypatch.setattr(few_labels, "MOST_IMAGES", 150)
    curve = label_efficiency(feed_of([100] * 4, 0), evaluated, "test", seed=0, own_head=None)
    assert [(p.images, p.draws) for p in curve.points] == [(4, 5), (20, 2), (100, 1)]
