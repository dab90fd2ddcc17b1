"""Predictions: ids, labels and logits, from which every score is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from headstart_predict.cards import Card, Shown, percent

BLOCK = 2**16  # logits that are processed at a time: they fit a core's cache


def blocks(logits: np.ndarray) -> Iterator[slice]:
    """Rows of logits (n, classes), BLOCK numbers at a time."""
    size = max(1, BLOCK // logits.shape[1])
    for start in range(0, len(logits), size):
        yield slice(start, start + size)


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

    def pick(self, rows: np.ndarray) -> Self:
        """Those of some rows: int64 positions, or bool."""
        ids, labels, logits = self.ids[rows], self.labels[rows], self.logits[rows]
        return replace(self, ids=ids, labels=labels, logits=logits)

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

    @cached_property
    def losses(self) -> np.ndarray:
        """float64 (n,): minus the logarithm of the probability of each image's truth, nats."""
        return np.asarray(-self.log_probabilities[np.arange(len(self)), self.labels])

    @property
    def headline(self) -> float:
        """The score that stands first, in 0..1: accuracy."""
        return float(self.correct.mean())

    @property
    def separable(self) -> bool:
        """Whether every answer is right: then no temperature can be fitted."""
        return bool(self.correct.all())

    def losses_at(self, log_sharpness: np.ndarray, kind: type[np.floating[Any]]) -> np.ndarray:
        """float64 (values, n): each image's loss with logits multiplied by each of the values of
        exp(log_sharpness), computed in numbers of this kind."""
        logits = self.logits.astype(np.float64)
        behind = logits - logits.max(axis=1, keepdims=True)
        own = behind[np.arange(len(behind)), self.labels]
        behind = behind.astype(kind, copy=False)
        losses = np.empty((len(log_sharpness), len(behind)))
        for rows in blocks(behind):
            scaled = np.empty_like(behind[rows])
            for row, sharper in zip(losses, np.exp(log_sharpness).tolist(), strict=True):
                np.multiply(behind[rows], sharper, out=scaled)
                np.exp(scaled, out=scaled)
                row[rows] = np.log(scaled.sum(axis=1, dtype=np.float64)) - own[rows] * sharper
        return losses

    def tempered(self, temperature: float) -> Self:
        """The same answers with logits divided by a temperature; above 1 they are less sure.

        In float64, so that two different logits stay different and no answer changes.
        """
        return replace(self, logits=self.logits.astype(np.float64) / temperature)
