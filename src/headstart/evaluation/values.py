"""Each image's part in a metric, and what statistics of these parts say.

`image_values` gives numbers whose mean over the images is the metric: of accuracy whether each is
right, of balanced accuracy the same with every class given equal weight, of macro F1 its
linearisation (the infinitesimal jackknife of Jaeckel 1972: the value plus each image's influence on
it), of the loss its negative. So one set of paired tests serves all metrics, and higher is better.
Tables are float64 (seeds, images), a row a trained model. Arrays in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from headstart.evaluation.classes import balanced_interval
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

SWAPS = 20_000  # random draws of the permutation test: no p-value is below one in so many
_AT_ONCE = 4_000_000  # signs drawn together, eight bytes each when they are summed
SWAP_TEST = "permutation: each image's two answers swapped at random"


def image_values(predictions: Predictions, metric: str, *, balanced: bool = False) -> np.ndarray:
    """float64 (n,): values whose mean is `selection_value(predictions, metric, ...)`.

    Raises ValueError on a metric that is none.
    """
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
    """A class's F1 is 2a / s, with a the share of the images that are its hits and s the shares
    that have it and that are given it, added; an image moves both."""
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

    If they do, an image's two answers might as well have been each other's: the sum of the
    differences is compared with those that random swaps give (Fisher's randomisation, with paired
    data; with equal weights it is McNemar's test but for the draws). Every swap stays within an
    image, hence within its class. Two-sided; `larger`: whether the second does better, alone.
    """
    own = differences[differences != 0]
    if not len(own):
        return 1.0
    rng, reached, done = np.random.default_rng(seed), 0, 0
    # Sums that are equal but for rounding are equal: half of all draws may lie exactly there.
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
    """The second's mean value minus the first's, as `statistics.difference` has it for accuracy.

    strata: int (images,), the classes, where the metric weighs them equally: then their sizes are
    no chance, and only the spread within each counts; None of a loss. One model each: the
    permutation test; with several seeds, t with images and seeds as samples. In strata an image
    that only the first and one that only the second gets right, of the mean squared weight, are
    added to the variance, without which few differences would look like certainty. (Of the largest
    weight they would make intervals several times too wide where a class has few images.)
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
    """What one image that gains and one that loses add to the variance of a mean in which each
    class weighs the same."""
    counts = np.bincount(strata)
    weights = 1 / ((counts > 0).sum() * counts[strata])
    return 2 * float((weights**2).mean())


def _t_p_value(change: float, error: float, df: float) -> float:
    """Two-sided. Without any spread only equality can be chance."""
    if error == 0:
        return float(change == 0)
    return 2 * float(stats.t.sf(abs(change) / error, df))


def estimate_value(
    made: Sequence[Predictions], metric: str, *, balanced: bool = False
) -> tuple[float, tuple[float, float]]:
    """A configuration's mean value over its seeds, with a 95 % interval for other images and seeds.

    Of balanced accuracy of one model `balanced_interval`; else from the variance of the images'
    values and of the seeds, as `statistics.estimate` has it for accuracy. A loss is negative.
    """
    table = np.stack([image_values(each, metric, balanced=balanced) for each in made])
    value, n = float(table.mean()), table.shape[1]
    if metric == "balanced_accuracy" and one_model(table):
        confusion = confusion_matrix(made[0])
        return value, balanced_interval(np.diag(confusion), confusion.sum(axis=1))
    strata = None if metric == "loss" else made[0].labels
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
    """Of the mean of values (n,); in strata the sum over these, each with its own mean. A stratum
    of one image lends the spread of all."""
    n = len(values)
    whole = float(values.var(ddof=1)) if n > 1 else 0.0
    if strata is None:
        return whole / n
    total = 0.0
    for stratum in np.unique(strata):
        own = values[strata == stratum]
        total += len(own) * (float(own.var(ddof=1)) if len(own) > 1 else whole)
    return total / n**2
