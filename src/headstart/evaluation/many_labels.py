"""Predictions of images with several labels each, and what they are worth.

Each class is a yes-or-no question of its own, so a logit is that of one probability. The answer to
an image is the set of the classes whose logits reach their thresholds. Arrays in, numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from headstart.evaluation.average_precision import average_precision_values, mean_average_precision
from headstart.evaluation.predictions import Predictions, blocks
from headstart_predict.cards import Card, percent
from headstart_predict.shapes import sigmoid


@dataclass(frozen=True, repr=False)
class ManyPredictions(Predictions):
    """A model's predictions where an image has any number of labels.

    labels: bool (n, classes). logits: of each class by itself. thresholds: float64 (classes,), the
    least logit of an image that has the label; None, before any are chosen, means 0, a probability
    of one half.
    """

    thresholds: np.ndarray | None = None

    def _card(self) -> Card:
        shown = f"mAP {percent(self.headline)}" if len(self) else "none"
        title = f"Predictions: {len(self):,} images, {self.labels.shape[1]} labels, {shown}"
        return Card(title)

    @property
    def log_probabilities(self) -> np.ndarray:
        raise TypeError("classes that do not exclude one another have no common probabilities")

    @property
    def confidence(self) -> np.ndarray:
        raise TypeError("an answer of several labels has no one confidence")

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float64 (n, classes), each of its own label."""
        return sigmoid(self.logits)

    @cached_property
    def predicted(self) -> np.ndarray:
        """bool (n, classes): the labels that each image is said to have."""
        least = 0.0 if self.thresholds is None else self.thresholds
        return np.asarray(self.logits >= least)

    @cached_property
    def correct(self) -> np.ndarray:
        """bool (n,): whether all labels of an image are right, none too many and none missing."""
        return np.asarray((self.predicted == self.labels).all(axis=1))

    @cached_property
    def losses(self) -> np.ndarray:
        """float64 (n,): minus the logarithm of the probability of an image's set of labels, nats:
        the sum of the binary cross-entropies of its classes."""
        return np.asarray(self.losses_at(np.zeros(1), np.float64)[0])

    @property
    def headline(self) -> float:
        """mAP, in 0..1; 0 where no label has an image."""
        found = mean_average_precision(self.logits, self.labels)
        return 0.0 if np.isnan(found) else found

    @property
    def separable(self) -> bool:
        return bool(((self.logits > 0) == self.labels).all())

    def losses_at(self, log_sharpness: np.ndarray, kind: type[np.floating[Any]]) -> np.ndarray:
        # The logit of the truth: of "yes" where the label is there, else of "no".
        own = np.where(self.labels, self.logits, -self.logits).astype(kind)
        losses = np.empty((len(log_sharpness), len(own)))
        for rows in blocks(own):
            for row, sharper in zip(losses, np.exp(log_sharpness).tolist(), strict=True):
                scaled = own[rows] * kind(sharper)
                each = np.maximum(-scaled, 0) + np.log1p(np.exp(-np.abs(scaled)))
                row[rows] = each.sum(axis=1, dtype=np.float64)
        return losses

    def tempered(self, temperature: float) -> Self:
        cooled = super().tempered(temperature)
        if self.thresholds is None:
            return cooled
        return replace(cooled, thresholds=self.thresholds / temperature)


def predictions_of(ids: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> Predictions:
    """Predictions of the kind that the labels have: int64 (n,), or bool (n, classes)."""
    return (Predictions if labels.ndim == 1 else ManyPredictions)(ids, labels, logits)


def has_many(predictions: Predictions) -> bool:
    """Whether an image may have several labels."""
    return isinstance(predictions, ManyPredictions)


def many_values(predictions: Predictions, metric: str) -> np.ndarray:
    """float64 (n,): values whose mean over the images is the metric; see `values.image_values`.

    mean_ap: linearised. balanced_accuracy: the mean over the classes of (sensitivity + specificity)
    / 2. accuracy: whether all labels are right. Raises ValueError on another metric.
    """
    if metric == "accuracy":
        return predictions.correct.astype(np.float64)
    if metric == "loss":
        return -predictions.losses
    if metric == "mean_ap":
        values = average_precision_values(predictions.logits, predictions.labels)
        known = ~np.isnan(values[0])
        if not known.any():
            return np.zeros(len(values))
        return np.asarray(values[:, known].mean(axis=1))
    if metric == "balanced_accuracy":
        held = predictions.labels
        counts = held.sum(axis=0)
        both = (counts > 0) & (counts < len(held))
        of_kind = np.where(held, counts, len(held) - counts)[:, both]
        right = (predictions.predicted == held)[:, both]
        each = right * len(held) / (2 * of_kind)
        return np.asarray(each.mean(axis=1)) if both.any() else np.zeros(len(held))
    raise ValueError(f"no metric {metric!r} of several labels")
