"""Metrics as means over images, and paired tests of these values.

`image_values` gives a number for each image; their mean is the metric. For accuracy it is whether
the answer is right; for balanced accuracy the same, with equal weight for every class; for macro F1
its linearisation (the infinitesimal jackknife of Jaeckel 1972: the metric plus the image's
influence on it); for the loss its negative. So the same paired tests serve all metrics, and higher
is better. Tables are float64 (seeds, images), one row for each trained model. Arrays in, numbers
out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from headstart.evaluation.classes import balanced_interval
from headstart.evaluation.many_labels import has_many, many_values
from headstart.evaluation.metrics import confusion_matrix
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import (
    Difference,
    SeedEffect,
    add_seeds,
    combine_variances,
    one_model,
    score_interval,
    seed_effect,
)

SWAPS = 20_000  # random draws of the permutation test; the smallest p-value is about 1 / SWAPS
_AT_ONCE = 4_000_000  # signs drawn at a time; eight bytes each when they are summed
SWAP_TEST = "permutation: each image's two answers swapped at random"


def image_values(predictions: Predictions, metric: str, *, balanced: bool = False) -> np.ndarray:
    """float64 (n,): values whose mean is `selection_value(predictions, metric, ...)`.

    Raises ValueError on an unknown metric.
    """
    if has_many(predictions):
        return many_values(predictions, metric)
    if metric == "accuracy":
        return predictions.correct.astype(np.float64)
    counts = np.bincount(predictions.labels, minlength=predictions.logits.shape[1])
    weights = len(predictions) / ((counts > 0).sum() * counts[predictions.labels])
    if metric == "balanced_accuracy":
        return np.asarray(predictions.correct * weights)
    if metric == "macro_f1":
        return _f1_values(predictions)
    if metric == "loss":
        rows = np.arange(len(predictions))
        own = predictions.log_probabilities[rows, predictions.labels]
        return np.asarray(own * weights if balanced else own)
    raise ValueError(f"no metric {metric!r}")


def _f1_values(predictions: Predictions) -> np.ndarray:
    """A class's F1 is 2a / s. a: share of the images that are hits of the class. s: share of the
    images with this label plus the share with this prediction. An image influences both."""
    confusion = confusion_matrix(predictions) / len(predictions)
    shares = confusion.sum(axis=0) + confusion.sum(axis=1)
    met = shares > 0
    f1 = 2 * np.diag(confusion) / np.where(met, shares, 1)
    true, given = predictions.labels, predictions.predicted
    loss = f1 / np.where(met, shares, 1)
    influence = 2 * predictions.correct / shares[true] - loss[true] - loss[given]
    return np.asarray(f1[met].mean() + influence / met.sum())


def swap_p_value(
    differences: np.ndarray, *, larger: bool = False, draws: int = SWAPS, seed: int = 0
) -> float:
    """p-value that two models do equally well, from the second's value minus the first's, (n,).

    If they do, an image's two answers can be swapped. So the sum of the differences is compared
    with the sums after random swaps (Fisher's randomisation test for paired data; with equal
    weights it is McNemar's test, apart from the random draws). A swap stays within an image, and so
    within its class. Two-sided; with `larger`, one-sided: whether the second does better.
    """
    own = differences[differences != 0]
    if not len(own):
        return 1.0
    rng, reached, done = np.random.default_rng(seed), 0, 0
    # A margin for rounding: half of all draws may be exactly equal to the observed sum.
    bound = float(own.sum() if larger else abs(own.sum())) - 1e-9 * float(np.abs(own).sum())
    while done < draws:
        size = min(draws - done, max(1, _AT_ONCE // len(own)))
        signs = rng.integers(0, 2, (size, len(own)), dtype=np.int8)
        sums = 2 * (signs @ own) - own.sum()
        reached += int(((sums if larger else np.abs(sums)) >= bound).sum())
        done += size
    return (reached + 1) / (draws + 1)


def value_difference(
    first: np.ndarray,
    second: np.ndarray,
    strata: np.ndarray | None,
    *,
    pooled: SeedEffect | None = None,
    confidence: float = 0.95,
) -> Difference:
    """The second's mean value minus the first's, like `statistics.difference` for accuracy.

    strata: int (images,), the classes, if the metric gives them equal weight; only the variance
    within each class then counts. None for a loss. With one model each: the permutation test; with
    several seeds: t, with images and seeds as samples. With strata, two images are added to the
    variance, one that only the first and one that only the second gets right, with the mean squared
    weight: otherwise a few differences would look certain. (With the largest weight, intervals
    would be several times too wide where a class has few images.)
    """
    a, b = first.mean(axis=0), second.mean(axis=0)
    change, n = b - a, first.shape[1]
    images = _variance(change, strata) + (0.0 if strata is None else _two_images(strata))
    alone = one_model(first) and one_model(second)
    variance, df = images, float("inf")
    if not alone:
        variance, df = add_seeds(images, n, (first, second), pooled)
    error, centre = float(np.sqrt(variance)), float(change.mean())
    half = float(stats.t.ppf(0.5 + confidence / 2, df)) * error
    return Difference(
        change=centre,
        interval=(centre - half, centre + half),
        p_value=swap_p_value(change) if alone else _t_p_value(centre, error, df),
        test=SWAP_TEST if alone else "paired t over images and seeds",
        disagreeing=float((change != 0).mean()),
        error=error,
        df=df,
    )


def _two_images(strata: np.ndarray) -> float:
    """The variance that one gained and one lost image add to a mean with equal weight for each
    class."""
    counts = np.bincount(strata)
    weights = 1 / ((counts > 0).sum() * counts[strata])
    return 2 * float((weights**2).mean())


def _t_p_value(change: float, error: float, df: float) -> float:
    """Two-sided. Without an error: 1 for no change, 0 for any."""
    if error == 0:
        return float(change == 0)
    return 2 * float(stats.t.sf(abs(change) / error, df))


def estimate_value(
    made: Sequence[Predictions], metric: str, *, balanced: bool = False
) -> tuple[float, tuple[float, float]]:
    """A configuration's mean value over its seeds, with a 95 % interval for other images and seeds.

    For balanced accuracy of one model it is `balanced_interval`; otherwise it follows from the
    variances of the images' values and of the seeds, as in `statistics.estimate`. A loss is
    negative.
    """
    table = np.stack([image_values(each, metric, balanced=balanced) for each in made])
    value, n = float(table.mean()), table.shape[1]
    many = has_many(made[0])
    if metric == "balanced_accuracy" and one_model(table) and not many:
        confusion = confusion_matrix(made[0])
        return value, balanced_interval(np.diag(confusion), confusion.sum(axis=1))
    strata = None if many or metric == "loss" else made[0].labels
    variance, df = _variance(table.mean(axis=0), strata), float("inf")
    if not one_model(table):
        variance, df = combine_variances(variance, n, [(seed_effect(table), len(table))])
    quantile = float(stats.t.ppf(0.975, df))
    if metric == "loss":
        half = quantile * float(np.sqrt(variance))
        return value, (value - half, min(0.0, value + half))
    spread = value * (1 - value)
    effective = min(spread / variance, table.size) if variance > 0 and spread > 0 else n
    return value, score_interval(min(1.0, max(0.0, value)), effective, quantile)


def _variance(values: np.ndarray, strata: np.ndarray | None) -> float:
    """Variance of the mean of values (n,); with strata, from the variance within each. A stratum of
    one image uses the variance of all images."""
    n = len(values)
    whole = float(values.var(ddof=1)) if n > 1 else 0.0
    if strata is None:
        return whole / n
    total = 0.0
    for stratum in np.unique(strata):
        own = values[strata == stratum]
        total += len(own) * (float(own.var(ddof=1)) if len(own) > 1 else whole)
    return total / n**2
