"""Predictions: ids, labels and logits, from which every score is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from headstart_predict.cards import Card, Shown, percent


@dataclass(frozen=True, repr=False)
class Predictions(Shown):
    """A model's predictions on one split, one row for each image.

    ids: str (n,); labels: int64 (n,), the true class; logits: float32 (n, classes), or float64
    once they are divided by a temperature.
    """

    ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def _card(self) -> Card:
        right = f"{percent(float(self.correct.mean()))} right" if len(self) else "none"
        classes = self.logits.shape[1]
        return Card(f"Predictions: {len(self):,} images, {classes} classes, {right}")

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        """float64 (n, classes), by a shifted log-sum-exp."""
        z = self.logits.astype(np.float64)
        z = z - z.max(axis=1, keepdims=True)
        return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float64 (n, classes); rows sum to one."""
        return np.asarray(np.exp(self.log_probabilities))

    @cached_property
    def predicted(self) -> np.ndarray:
        """int64 (n,), the most probable class; the lower index on a tie."""
        return np.asarray(self.logits.argmax(axis=1))

    @cached_property
    def confidence(self) -> np.ndarray:
        """float64 (n,), the probability of the predicted class."""
        return np.asarray(np.take_along_axis(self.probabilities, self.predicted[:, None], 1)[:, 0])

    @cached_property
    def correct(self) -> np.ndarray:
        """bool (n,)."""
        return np.asarray(self.predicted == self.labels)

    def tempered(self, temperature: float) -> Predictions:
        """The same answers with logits divided by a temperature; above 1 they are less sure.

        In float64, so that two different logits stay different and no answer changes.
        """
        return replace(self, logits=self.logits.astype(np.float64) / temperature)
