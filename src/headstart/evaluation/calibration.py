"""Calibration: whether the confidence in an answer is how often such answers are right.

The confidence of an answer is the probability of the class that is answered. Answers are put into
15 bins of equal width, each without its lower and with its upper edge, by confidence; a bin's gap
is the distance between its mean confidence and its accuracy (Naeini et al. 2015, "Obtaining well
calibrated probabilities using Bayesian binning"; Guo et al. 2017, "On calibration of modern neural
networks"). Arrays in, numbers out.
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
DRAWN = 10  # bins of a drawing at most: with 400 answers and more
# Where a temperature is looked for, in how many steps (an odd number: 1 is one of them).
COLDEST, HOTTEST, STEPS = 0.01, 100.0, 121
BLOCK = 2**16  # logits that are computed with at a time
PRIOR = 1.0  # as a normal prior on log(T) of deviation 0.7
DEVIATIONS = 2.33  # one-sided, 1 %


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence is in (low, high]; of none there is no mean."""

    low: float
    high: float
    n: int
    confidence: float | None  # mean
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be believed. Gaps in 0..1, loss in nats, Brier score in 0..2.

    ECE and MCE depend on the bins and, for few images, are above 0 even for a perfect model; loss
    and Brier score are proper: no other probabilities than the true ones lower them on average.
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
    """What logits are divided by; `note` says why where it is 1 because none could be fitted."""

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
    """How often answers of about one confidence were right: accuracy with its 95 % interval."""

    n: int
    low: float  # least confidence
    high: float  # largest
    confidence: float  # mean
    accuracy: float
    interval: tuple[float, float]  # Wilson


def reliability(predictions: Predictions) -> tuple[Share, ...]:
    """Accuracy by confidence, from bins that hold enough answers to be drawn.

    Answers in order of confidence are cut into bins of equal number, about half the root of n of
    them: three of 16 for 49 answers, ten of 1,000 for 10,000. Bins of equal width leave most of
    them with so few answers that their accuracy is chance. Equal confidences stay together. ()
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
    rows = np.arange(len(predictions))
    return float(-predictions.log_probabilities[rows, predictions.labels].mean())


def brier(predictions: Predictions) -> float:
    """The squared error of the probabilities, summed over classes, mean over images (Brier 1950).

    It is 0 for sure and right, 2 for sure and wrong, and twice what is common for two classes.
    """
    p = predictions.probabilities
    own = p[np.arange(len(p)), predictions.labels]
    return float(((p * p).sum(axis=1) - 2 * own + 1).mean())


def fit_temperature(predictions: Predictions) -> Temperature:
    """The temperature T at which softmax(logits / T) has the least log loss (Guo et al. 2017), as
    far as these images can tell it from 1.

    The sum of the losses has PRIOR * log(T)^2 added to it, which is felt where images are few. Each
    image is then judged by the temperature of all others (leave-one-out, Stone 1974): T is 1 unless
    the mean gain over T = 1 is above 0 beyond chance, by DEVIATIONS standard errors. A fit to 70
    images with one mistake would else take every other answer for certain. It is 1 as well where
    every answer is right: nothing then says how sure to be. One number is fitted, and it changes no
    answer; on the images that it was fitted to, what it gains is flattered.
    """
    if predictions.correct.all():
        return Temperature(note="every answer is right: nothing says how sure to be")
    sharpness = np.linspace(-np.log(HOTTEST), -np.log(COLDEST), STEPS)  # log(1 / T)
    behind, own = _behind(predictions)
    # In single precision, which is enough to tell which step is best.
    losses = _losses(behind.astype(np.float32), own, sharpness)
    total = losses.sum(axis=1) + PRIOR * sharpness**2
    by_others = (total[:, None] - losses).argmin(axis=0)
    gain = losses[STEPS // 2] - losses[by_others, np.arange(len(predictions))]
    error = gain.std() / np.sqrt(len(gain))
    if gain.mean() <= DEVIATIONS * error:
        return Temperature(note="no temperature lowers the loss of left-out images beyond chance")
    near = sharpness[np.clip(total.argmin() + np.array([-1, 1]), 0, STEPS - 1)]
    optimum = optimize.minimize_scalar(
        lambda value: _losses(behind, own, np.array([value])).sum() + PRIOR * value**2,
        bounds=tuple(near),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return Temperature(float(np.exp(-optimum.x)))


def _behind(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """How far each class's logit is below its image's largest, negative, float64 (n, classes); and
    that of the image's own class, (n,)."""
    logits = predictions.logits.astype(np.float64)
    behind = logits - logits.max(axis=1, keepdims=True)
    return behind, behind[np.arange(len(behind)), predictions.labels]


def _losses(behind: np.ndarray, own: np.ndarray, log_sharpness: np.ndarray) -> np.ndarray:
    """float64 (values, n): each image's log loss where logits are multiplied by each of the values
    of exp(log_sharpness). In blocks of images that stay in a core's cache."""
    losses = np.empty((len(log_sharpness), len(behind)))
    size = max(1, BLOCK // behind.shape[1])
    for start in range(0, len(behind), size):
        rows = slice(start, start + size)
        scaled = np.empty_like(behind[rows])
        for row, sharper in zip(losses, np.exp(log_sharpness).tolist(), strict=True):
            np.multiply(behind[rows], sharper, out=scaled)
            np.exp(scaled, out=scaled)
            row[rows] = np.log(scaled.sum(axis=1, dtype=np.float64)) - own[rows] * sharper
    return losses
