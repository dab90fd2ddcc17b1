"""Scores of predictions with several labels an image: plain numbers, for metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from headstart.evaluation.average_precision import average_precision_values
from headstart.evaluation.calibration import log_loss
from headstart.evaluation.many_labels import ManyPredictions
from headstart.evaluation.statistics import score_interval, wilson_interval
from headstart.evaluation.values import estimate_value
from headstart.files import to_json
from headstart_predict.cards import Card, Shown, interval, percent

BINS = 15
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Scores of one label. n: images that have it; given: images that are said to have it.

    threshold: the least calibrated probability of an image that has it. ap, and its 95 % interval:
    None where no image has it.
    """

    n: int
    given: int
    threshold: float
    ap: float | None
    ap_interval: Interval | None
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Missed:
    """Images that have the label `missing` and are said to have `instead`, which they have not, by
    class numbers. of: images that have `missing` and not `instead`."""

    missing: int
    instead: int
    images: int
    of: int


@dataclass(frozen=True, repr=False)
class ManyScores(Shown):
    """Scores on one split of the served model: calibrated, at its thresholds.

    Fractions are in 0..1; the loss is in nats an image, summed over the labels. Labels without
    images are left out of the means, except that of F1 where they are answered.
    """

    n: int
    mean_ap: float  # macro average of the average precision
    interval: Interval  # 95 %, of other images: from the images' influences on it
    micro_f1: float  # of all yes-or-no answers together
    micro_interval: Interval
    macro_f1: float
    macro_precision: float
    macro_recall: float
    balanced_accuracy: float  # mean over the labels of (sensitivity + specificity) / 2
    balanced_interval: Interval
    all_right: float  # the share of images with no label too many and none missing
    all_right_interval: Interval  # Wilson
    labels_an_image: float  # mean number that are there
    given_an_image: float  # mean number that are answered
    loss: float
    brier: float  # squared error of the probabilities, mean over all answers
    ece: float  # calibration error of all probabilities together, 15 bins
    plain_loss: float  # the last three without the temperature
    plain_brier: float
    plain_ece: float
    per_label: tuple[LabelScores, ...]  # in class order
    mistaken: tuple[Missed, ...]  # what is most often answered in place of a label, the most first

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dict(to_json(self))

    def _card(self) -> Card:
        facts = [
            ("mAP", f"{percent(self.mean_ap)} {interval(self.interval)}"),
            ("micro F1", f"{self.micro_f1:.3f}"),
            ("macro F1", f"{self.macro_f1:.3f}"),
            ("all labels right", percent(self.all_right)),
        ]
        return Card(f"Scores on {self.n:,} images, {len(self.per_label)} labels", facts)


def score_many(made: ManyPredictions, temperature: float) -> ManyScores:
    """Score predictions with their thresholds. Raises ValueError on an empty split."""
    if len(made) == 0:
        raise ValueError("no predictions to score")
    served = made.tempered(temperature)
    per_label = _per_label(served)
    value, bounds = estimate_value([served], "mean_ap")
    balanced, balanced_bounds = estimate_value([served], "balanced_accuracy")
    hits = int((served.predicted & served.labels).sum())
    either = int(served.predicted.sum() + served.labels.sum())
    n, right = len(made), int(served.correct.sum())
    there = [row for row in per_label if row.n]
    return ManyScores(
        n=n,
        mean_ap=value,
        interval=bounds,
        micro_f1=2 * hits / either if either else 1.0,
        micro_interval=_micro_interval(served),
        macro_f1=_mean([row.f1 for row in per_label if row.n or row.given]),
        macro_precision=_mean([row.precision for row in per_label if row.n or row.given]),
        macro_recall=_mean([row.recall for row in there]),
        balanced_accuracy=balanced,
        balanced_interval=balanced_bounds,
        all_right=right / n,
        all_right_interval=wilson_interval(right, n),
        labels_an_image=float(served.labels.sum() / n),
        given_an_image=float(served.predicted.sum() / n),
        loss=log_loss(served),
        brier=_brier(served),
        ece=_ece(served),
        plain_loss=log_loss(made),
        plain_brier=_brier(made),
        plain_ece=_ece(made),
        per_label=per_label,
        mistaken=_mistaken(served),
    )


def _per_label(served: ManyPredictions) -> tuple[LabelScores, ...]:
    values = average_precision_values(served.logits, served.labels)
    held, given = served.labels.sum(axis=0), served.predicted.sum(axis=0)
    hits = (served.labels & served.predicted).sum(axis=0)
    least = _thresholds(served)
    rows = []
    for c, column in enumerate(values.T):
        known = bool(held[c])
        rows.append(
            LabelScores(
                n=int(held[c]),
                given=int(given[c]),
                threshold=float(least[c]),
                ap=float(column.mean()) if known else None,
                ap_interval=_influence_interval(column) if known else None,
                precision=float(hits[c] / max(given[c], 1)),
                recall=float(hits[c] / max(held[c], 1)),
                f1=float(2 * hits[c] / max(held[c] + given[c], 1)),
            )
        )
    return tuple(rows)


def _thresholds(served: ManyPredictions) -> np.ndarray:
    """float64 (classes,): the thresholds as probabilities."""
    least = np.zeros(served.labels.shape[1]) if served.thresholds is None else served.thresholds
    return np.asarray(1 / (1 + np.exp(-least)))


def _influence_interval(values: np.ndarray) -> Interval:
    """Of the mean of linearised values (n,), a fraction: Wilson's form at the sample size that has
    their variance."""
    n, value = len(values), min(1.0, max(0.0, float(values.mean())))
    variance, spread = float(values.var() / n), value * (1 - value)
    effective = min(spread / variance, n) if variance > 0 and spread > 0 else n
    return score_interval(value, effective, float(stats.norm.ppf(0.975)))


def _micro_interval(served: ManyPredictions) -> Interval:
    """Of micro F1, 2a / s: its influences are (2 a_i - F1 s_i) / s."""
    hits = (served.labels & served.predicted).sum(axis=1)
    either = served.labels.sum(axis=1) + served.predicted.sum(axis=1)
    if not either.any():
        return (0.0, 1.0)
    f1 = 2 * hits.sum() / either.sum()
    return _influence_interval(f1 + (2 * hits - f1 * either) / either.mean())


def _brier(made: ManyPredictions) -> float:
    return float(((made.probabilities - made.labels) ** 2).mean())


def _ece(made: ManyPredictions) -> float:
    """The mean distance between probability and frequency, bins weighed by their answers."""
    p, held = made.probabilities.ravel(), made.labels.ravel()
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, p, minlength=BINS) - np.bincount(place, held, minlength=BINS)
    return float(np.abs(gaps).sum() / len(p))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _mistaken(served: ManyPredictions, most: int = 20) -> tuple[Missed, ...]:
    """Pairs of labels of which one is missed where the other is wrongly given."""
    missed = (served.labels & ~served.predicted).astype(np.float32)
    wrong = (served.predicted & ~served.labels).astype(np.float32)
    counts = missed.T @ wrong
    order = np.argsort(-counts, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), counts.shape[1]) for place in order]
    return tuple(
        Missed(a, b, int(counts[a, b]), int((served.labels[:, a] & ~served.labels[:, b]).sum()))
        for a, b in pairs
        if counts[a, b] > 0
    )
