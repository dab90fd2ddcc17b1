"""Calibration: whether answers with a confidence of p are right with a frequency of p.

The confidence of an answer is the probability of the predicted class. Answers are put into 15 bins
of equal width by confidence; a bin includes its upper edge and excludes its lower one. The gap of a
bin is the distance between its mean confidence and its accuracy (Naeini et al. 2015, "Obtaining
well calibrated probabilities using Bayesian binning"; Guo et al. 2017, "On calibration of modern
neural networks"). Arrays in, numbers out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval
from headstart.files import to_json

BINS = 15
DRAWN = 10  # the most bins of a drawing; reached with 400 answers
# The range of temperatures that are tried, and the number of steps (odd, so that 1 is a step).
COLDEST, HOTTEST, STEPS = 0.01, 100.0, 121
PRIOR = 1.0  # like a normal prior on log(T) with deviation 0.7
DEVIATIONS = 2.33  # one-sided, 1 %


@dataclass(frozen=True)
class Bin:
    """Answers with a confidence in (low, high]. Without answers the means are None."""

    low: float
    high: float
    n: int
    confidence: float | None  # mean
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """How reliable the probabilities are. Gaps in 0..1, loss in nats, Brier score in 0..2.

    ECE and MCE depend on the bins; for few images they are above 0 even for a perfect model. Loss
    and Brier score are proper scores: on average, the true probabilities minimise them.
    """

    ece: float  # expected calibration error: mean gap, bins weighted by their answers
    mce: float  # maximum calibration error: the widest gap of a bin that has answers
    loss: float
    brier: float
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dict(to_json(self))


@dataclass(frozen=True)
class Temperature:
    """Logits are divided by `value`. note: why no temperature was fitted and it is 1, or None."""

    value: float = 1.0
    note: str | None = None


def calibration(predictions: Predictions) -> Calibration:
    """Raises ValueError on an empty split."""
    if len(predictions) == 0:
        raise ValueError("no predictions to score")
    edges = np.linspace(0, 1, BINS + 1)
    place = np.searchsorted(edges, predictions.confidence, side="left") - 1
    n = np.bincount(place, minlength=BINS)
    sure = np.bincount(place, predictions.confidence, minlength=BINS)
    right = np.bincount(place, predictions.correct, minlength=BINS)
    gaps = np.abs(sure - right) / np.maximum(n, 1)
    return Calibration(
        ece=float((gaps * n).sum() / n.sum()),
        mce=float(gaps.max()),
        loss=log_loss(predictions),
        brier=brier(predictions),
        bins=tuple(map(_bin, edges[:-1], edges[1:], n, sure, right)),
    )


def _bin(low: float, high: float, n: int, sure: float, right: float) -> Bin:
    """A bin from the sums over its answers."""
    if n == 0:
        return Bin(float(low), float(high), 0, None, None)
    return Bin(float(low), float(high), int(n), float(sure / n), float(right / n))


@dataclass(frozen=True)
class Share:
    """Answers of similar confidence: their accuracy, with its 95 % interval."""

    n: int
    low: float  # least confidence
    high: float  # largest
    confidence: float  # mean
    accuracy: float
    interval: tuple[float, float]  # Wilson


def reliability(predictions: Predictions) -> tuple[Share, ...]:
    """Accuracy by confidence, in bins with enough answers for a drawing.

    Answers are sorted by confidence and cut into bins of equal number. There are about sqrt(n) / 2
    bins: three of 16 for 49 answers, ten of 1,000 for 10,000. With bins of equal width, most would
    have so few answers that their accuracy is chance. Equal confidences stay in one bin. ()
    without answers.
    """
    n = len(predictions)
    order = np.argsort(predictions.confidence, kind="stable")
    sure, right = predictions.confidence[order], predictions.correct[order]
    count = int(np.clip(np.sqrt(n) / 2, 1, DRAWN))
    cuts = np.round(np.linspace(0, n, count + 1)[1:-1]).astype(int)
    cuts = np.unique([0, *np.searchsorted(sure, sure[cuts], side="left"), n])
    return tuple(
        Share(
            int(end - start), float(sure[start]), float(sure[end - 1]),
            float(sure[start:end].mean()), float(right[start:end].mean()),
            wilson_interval(int(right[start:end].sum()), int(end - start)),
        )
        for start, end in itertools.pairwise(cuts.tolist())
    )  # fmt: skip


def log_loss(predictions: Predictions) -> float:
    """Mean cross-entropy, nats."""
    return float(predictions.losses.mean())


def brier(predictions: Predictions) -> float:
    """The squared error of the probabilities, summed over classes, mean over images (Brier 1950).

    It is 0 for a sure right answer and 2 for a sure wrong one. For two classes it is twice the
    common definition.
    """
    p = predictions.probabilities
    own = p[np.arange(len(p)), predictions.labels]
    return float(((p * p).sum(axis=1) - 2 * own + 1).mean())


def fit_temperature(predictions: Predictions) -> Temperature:
    """The temperature T at which softmax(logits / T) has the least log loss (Guo et al. 2017); 1
    unless it is significantly better than 1.

    PRIOR * log(T)^2 is added to the sum of the losses; it matters where images are few. Then each
    image is scored with the temperature of all others (leave-one-out, Stone 1974). T stays 1 unless
    the mean gain over T = 1 is at least DEVIATIONS standard errors above 0. Otherwise a fit to 70
    images with one mistake would make all other answers certain. T is also 1 where every answer is
    right: the optimum would be 0. A temperature changes no answer. On the images that it was fitted
    to, its gain looks too good.
    """
    if predictions.separable:
        return Temperature(note="every answer is right: no temperature can be fitted")
    sharpness = np.linspace(-np.log(HOTTEST), -np.log(COLDEST), STEPS)  # log(1 / T)
    # Single precision is enough to find the best step.
    losses = predictions.losses_at(sharpness, np.float32)
    total = losses.sum(axis=1) + PRIOR * sharpness**2
    by_others = (total[:, None] - losses).argmin(axis=0)
    gain = losses[STEPS // 2] - losses[by_others, np.arange(len(predictions))]
    error = gain.std() / np.sqrt(len(gain))
    if gain.mean() <= DEVIATIONS * error:
        return Temperature(note="no temperature lowers the loss of left-out images beyond chance")
    near = sharpness[np.clip(total.argmin() + np.array([-1, 1]), 0, STEPS - 1)]
    optimum = optimize.minimize_scalar(
        lambda value: predictions.losses_at(np.array([value]), np.float64).sum() + PRIOR * value**2,
        bounds=tuple(near),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return Temperature(float(np.exp(-optimum.x)))
