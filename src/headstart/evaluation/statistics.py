"""Statistics of right and wrong answers: intervals, paired tests, power.

`correct` is always bool (seeds, images): whether the model of each seed is right on each test
image. Arrays that are compared have the same images in the same order. With several seeds, images
and seeds are both samples: a claim is about the recipe, for other images and other seeds. With one
row, a claim is about that one trained model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from headstart.evaluation.predictions import Predictions

LEVEL = 0.05  # of significance, after the correction for many comparisons
DRAWS = 2000  # bootstrap samples
MCNEMAR = "exact McNemar"
# Degrees of freedom of the seeds. With fewer, seeds may agree by chance, and Satterthwaite's
# approximation then gives too many degrees of freedom.
ENOUGH = 6


@dataclass(frozen=True)
class Estimate:
    """A configuration's accuracy: the mean over its seeds."""

    accuracy: float
    interval: tuple[float, float]  # 95 %
    sd: float | None  # of the seeds' accuracies, n - 1; None of a single seed


@dataclass(frozen=True)
class Difference:
    """The second's mean accuracy minus the first's, on the same images. Fractions in -1..1."""

    change: float
    interval: tuple[float, float]  # 95 %, for this pair alone
    p_value: float  # two-sided, uncorrected
    test: str
    disagreeing: float  # share of images whose answers differ; a mean over pairs of seeds
    error: float  # standard error of the change
    df: float  # degrees of freedom of `error`


@dataclass(frozen=True)
class PairedChange:
    """The second model's accuracy against the first's, on the same images. Fractions in -1..1."""

    n: int
    gained: int  # images that only the second gets right
    lost: int  # images that only the first gets right
    change: float  # accuracy of the second minus that of the first
    interval: tuple[float, float]  # 95 %, Bonett and Price
    p_value: float  # exact McNemar


@dataclass(frozen=True)
class SeedEffect:
    """How much seeds change an accuracy: mean squares of crossed (seeds, images) tables, over n.

    seeds: variance of one seed's accuracy. rest: the part of it that chance alone would give.
    """

    seeds: float
    rest: float
    df: int
    df_rest: int


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927): keeps its coverage near 0 and 1."""
    return score_interval(successes / n, n, float(stats.norm.ppf(0.5 + confidence / 2)))


def estimate(correct: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Mean accuracy of bool (seeds, images), with an interval for other images and other seeds.

    One seed: Wilson's interval. Several: seeds and images are crossed random effects, so

        variance of the mean = MS_images / (s n)  +  max(MS_seeds - MS_rest, 0) / (s n)

    with Satterthwaite's degrees of freedom (1946; the construction is Clark's quasi F, 1973). The
    interval is Wilson's again, at the sample size that would have this variance and with t in the
    place of z (Korn and Graubard 1998; Dean and Pagano 2015), so it stays inside 0..1. Seeds that
    change no answer are one model. Raises ValueError where there is no image.
    """
    seeds, n = _shape(correct)
    accuracy = float(correct.mean())
    if one_model(correct):
        interval = wilson_interval(accuracy * n, n, confidence)
        return Estimate(accuracy, interval, 0.0 if seeds > 1 else None)
    sd = float(correct.mean(axis=1).std(ddof=1))
    images = float(correct.mean(axis=0).var(ddof=1)) / n if n > 1 else 0.0
    variance, df = combine_variances(images, n, [(seed_effect(correct), seeds)])
    if not variance > 0:  # seeds that complement one another, or a single image: nothing is shown
        return Estimate(accuracy, wilson_interval(accuracy * n, n, confidence), sd)
    effective = min(accuracy * (1 - accuracy) / variance, seeds * n)
    quantile = float(stats.t.ppf(0.5 + confidence / 2, df))
    return Estimate(accuracy, score_interval(accuracy, effective, quantile), sd)


def repeated_interval(
    right: np.ndarray, folds: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the accuracy that repeated folds estimate, for a head fitted to all images.

    right: float (n,), how often each image was answered rightly, over the repeats. Heads of
    different folds share most of their images, so their errors are not independent. Nadeau and
    Bengio (2003) add the ratio of test to training images, 1 / (folds - 1), to the variance; here
    the sample of Wilson's interval counts as smaller by it.
    """
    n, p = len(right), float(right.mean())
    quantile = float(stats.norm.ppf(0.5 + confidence / 2))
    return score_interval(p, n / (1 + 1 / (folds - 1)), quantile)


def mcnemar_p_value(gained: int, lost: int) -> float:
    """Exact McNemar: images that only the second, and only the first, gets right.

    All other images say nothing (McNemar 1947). Under the hypothesis, both cases are equally
    likely.
    """
    return min(1.0, 2 * float(stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))


def paired_change(
    first: Predictions, second: Predictions, confidence: float = 0.95
) -> PairedChange:
    """The second's accuracy minus the first's, with an interval from their paired counts.

    Images that both get right or wrong cancel, so it is narrower than two separate intervals
    suggest. The interval is Bonett and Price's (2012): Wald's after one image is added to each kind
    of disagreement, so that its coverage holds for few disagreements too. Raises ValueError where
    the images differ, also in their order, or where there are none.
    """
    gained, lost = _disagreements(first, second)
    n = len(first)
    if n == 0:
        raise ValueError("no predictions to compare")
    result = _from_counts(gained, lost, n, confidence)
    return PairedChange(n, gained, lost, result.change, result.interval, result.p_value)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a median by order statistics (David and Nagaraja 2003, 7.1), without an
    assumption about the distribution; the whole range below six values."""
    ordered = sorted(values)
    rank = max(int(stats.binom.ppf(0.025, len(ordered), 0.5)), 1)
    return ordered[rank - 1], ordered[-rank]


def pool_seed_effects(tables: Sequence[np.ndarray]) -> SeedEffect | None:
    """The effect of seeds over all configurations of a study; None where none has several models.

    Weighted by degrees of freedom. tables: bool (seeds, images) each.
    """
    effects = [seed_effect(table) for table in tables if not one_model(table)]
    if not effects:
        return None
    df, df_rest = sum(e.df for e in effects), sum(e.df_rest for e in effects)
    return SeedEffect(
        seeds=sum(e.seeds * e.df for e in effects) / df,
        rest=sum(e.rest * e.df_rest for e in effects) / df_rest,
        df=df,
        df_rest=df_rest,
    )


def difference(
    first: np.ndarray,
    second: np.ndarray,
    confidence: float = 0.95,
    *,
    pooled: SeedEffect | None = None,
) -> Difference:
    """Compare two configurations, bool (seeds, images) each; their numbers of seeds may differ.

    Two models: exact McNemar and Bonett and Price's interval. With several seeds: a t-test on the
    images' differences of mean correctness, with the seeds of each configuration as a further
    random factor nested in it,

        variance = var(differences) / n  +  for each of the two, max(seeds - rest, 0) / s

    and Satterthwaite's degrees of freedom, as in `estimate`. A few seeds say little about how much
    seeds matter. So a configuration's own effect counts only where it is larger than the effect
    `pooled` over the study (over these two, if not given). If the pooled effect has fewer than
    ENOUGH degrees of freedom, the test has no more than it. As in Bonett and Price, one image is
    added to each kind of disagreement: otherwise a few disagreements would look certain. Seeds that
    change no answer count as one model. Raises ValueError where the numbers of images differ.
    """
    (_, n), (_, other) = _shape(first), _shape(second)
    if n != other:
        raise ValueError("the answers are about different images")
    if one_model(first) and one_model(second):
        gained, lost = int((second[0] & ~first[0]).sum()), int((first[0] & ~second[0]).sum())
        return _from_counts(gained, lost, n, confidence)
    a, b = first.mean(axis=0), second.mean(axis=0)
    padded = np.append(b - a, [1.0, -1.0])
    images = float(padded.var(ddof=1)) / (n + 2)
    variance, df = add_seeds(images, n + 2, (first, second), pooled)
    error, centre = float(np.sqrt(variance)), float(padded.mean())
    half = float(stats.t.ppf(0.5 + confidence / 2, df)) * error
    return Difference(
        change=float(b.mean() - a.mean()),
        interval=(max(-1.0, centre - half), min(1.0, centre + half)),
        p_value=2 * float(stats.t.sf(abs(centre) / error, df)),
        test="paired t over images and seeds",
        disagreeing=float((a * (1 - b) + b * (1 - a)).mean()),
        error=error,
        df=df,
    )


def bootstrap_interval(
    first: np.ndarray,
    second: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the second's mean accuracy minus the first's, by resampling.

    The same images are drawn for both (Efron 1979, paired); with several seeds, the seeds of each
    as well (Owen 2007, the pigeonhole bootstrap). Two or three seeds are too few for it: use
    `difference` to decide.
    """
    rng = np.random.default_rng(seed)
    (a, n), (b, _) = _shape(first), _shape(second)
    # Images with the same answers are interchangeable: count each pattern.
    patterns, counts = np.unique(np.concatenate([first, second]), axis=1, return_counts=True)
    changes = []
    for size in np.diff(np.append(np.arange(0, draws, 250), draws)):
        images = rng.multinomial(n, counts / n, size) / n
        weights = [
            sign * rng.multinomial(rows, np.full(rows, 1 / rows), size) / rows
            for sign, rows in ((-1, a), (1, b))
        ]
        changes.append(((images @ patterns.T) * np.concatenate(weights, axis=1)).sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(changes), [tail, 1 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979). Those below LEVEL are significant; the probability that any of
    them is an error is at most LEVEL, whatever the dependence between the tests."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]


def mcnemar_power(n: int, disagreeing: float, change: float, level: float = LEVEL) -> float:
    """Probability that the exact McNemar test is significant for two models on n images.

    disagreeing: share of images that exactly one of the two gets right. change: difference of their
    accuracies, at most that share; ValueError if it is larger. The sum over the number of
    disagreements, which is binomial, is exact (Connor 1987 approximates it).
    """
    if not abs(change) <= disagreeing <= 1:
        raise ValueError(f"a difference of {change} needs as large a share of disagreements")
    if disagreeing == 0:
        return 0.0
    ends = stats.binom.ppf([1e-12, 1 - 1e-12], n, disagreeing)
    m = np.arange(int(ends[0]), int(ends[1]) + 1)
    # The test rejects where the smaller count is at most `most`; -1 where it never does.
    most = stats.binom.ppf(level / 2, m, 0.5)
    most -= stats.binom.cdf(most, m, 0.5) > level / 2
    share = (disagreeing + abs(change)) / (2 * disagreeing)
    rejects = stats.binom.cdf(most, m, share) + stats.binom.sf(m - most - 1, m, share)
    return min(1.0, float((stats.binom.pmf(m, n, disagreeing) * rejects).sum()))


def detectable_change(
    n: int, disagreeing: float, level: float = LEVEL, power: float = 0.8
) -> float | None:
    """The smallest difference of two models that the exact McNemar test shows with this power.

    `disagreeing` is raised to the difference where it is smaller. The result is exact to 0.0001;
    None where n images cannot show any difference.
    """

    def lack(change: float) -> float:
        return power - mcnemar_power(n, max(disagreeing, change), change, level)

    if lack(1.0) > 0:
        return None
    return float(optimize.bisect(lack, 0.0, 1.0, xtol=1e-4))


def score_interval(p: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval of a share p of n images. n: any positive number. quantile: of the normal
    distribution or of t."""
    q = quantile * quantile / n
    centre = (p + q / 2) / (1 + q)
    half = float(np.sqrt(p * (1 - p) * q + q * q / 4)) / (1 + q)
    return max(0.0, centre - half), min(1.0, centre + half)


def _from_counts(gained: int, lost: int, n: int, confidence: float) -> Difference:
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    error = float(np.sqrt((up + down - (up - down) ** 2) / (n + 2)))
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * error
    return Difference(
        change=(gained - lost) / n,
        interval=(max(-1.0, up - down - half), min(1.0, up - down + half)),
        p_value=mcnemar_p_value(gained, lost),
        test=MCNEMAR,
        disagreeing=(gained + lost) / n,
        error=error,
        df=float("inf"),
    )


def _disagreements(first: Predictions, second: Predictions) -> tuple[int, int]:
    """Images that only the second, and only the first, gets right."""
    if not np.array_equal(first.ids, second.ids):
        raise ValueError("the predictions are about different images")
    gained = int((second.correct & ~first.correct).sum())
    lost = int((first.correct & ~second.correct).sum())
    return gained, lost


def seed_effect(correct: np.ndarray) -> SeedEffect:
    seeds, n = correct.shape
    rows, columns, mean = correct.mean(axis=1), correct.mean(axis=0), correct.mean()
    between = n * float(((rows - mean) ** 2).sum())
    rest = float(((correct - rows[:, None] - columns + mean) ** 2).sum())
    df, df_rest = seeds - 1, (seeds - 1) * (n - 1)
    return SeedEffect(between / df / n, rest / max(df_rest, 1) / n, df, max(df_rest, 1))


def combine_variances(
    images: float, n: int, effects: Sequence[tuple[SeedEffect, int]]
) -> tuple[float, float]:
    """Variance of a mean or a difference, and Satterthwaite's degrees of freedom of it.

    effects: each with the number of seeds that divides it. An effect that comes twice, such as the
    pooled one, has its uncertainty once. An effect below what chance gives adds no variance, but
    its uncertainty stays in the degrees of freedom: to drop it would be a choice by the data.
    """
    variance, uncertainty = images, images**2 / max(n - 1, 1)
    for effect in dict.fromkeys(effect for effect, _ in effects):
        share = sum(1 / seeds for other, seeds in effects if other == effect)
        variance += max(effect.seeds - effect.rest, 0.0) * share
        uncertainty += (effect.seeds * share) ** 2 / effect.df
        uncertainty += (effect.rest * share) ** 2 / effect.df_rest
    return variance, variance**2 / uncertainty if uncertainty else np.inf


def add_seeds(
    images: float, n: int, tables: tuple[np.ndarray, np.ndarray], pooled: SeedEffect | None
) -> tuple[float, float]:
    """Variance and degrees of freedom of a difference, from the variance of its images and the
    effects of both configurations' seeds.

    tables: (seeds, images) each; at least one has several models. pooled: as in `difference`.
    """
    pooled = pooled or pool_seed_effects(tables)
    assert pooled is not None  # one of the two has several models
    effects = [
        (own if own.seeds > pooled.seeds else pooled, len(rows))
        for rows in tables
        if not one_model(rows)
        for own in [seed_effect(rows)]
    ]
    variance, df = combine_variances(images, n, effects)
    return variance, min(df, pooled.df) if pooled.df < ENOUGH else df


def one_model(correct: np.ndarray) -> bool:
    """Whether all seeds give the same answers, as a solved head does."""
    return bool((correct == correct[0]).all())


def _shape(correct: np.ndarray) -> tuple[int, int]:
    seeds, n = correct.shape
    if not seeds or not n:
        raise ValueError("no answers to compare")
    return seeds, n
