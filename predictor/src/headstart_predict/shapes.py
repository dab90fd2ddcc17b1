"""The two shapes of an answer: one label an image, or any number of labels.

With one label the probabilities of the classes sum to one, and the answer is the most probable
class. With many, each class is asked for by itself, and the answer is every class whose probability
reaches its threshold. Everything that differs between the two, from logits on, is asked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Shape(Protocol):
    """What logits mean. temperature: logits are divided by it; this changes no answer."""

    @property
    def temperature(self) -> float: ...

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float64 (..., classes), calibrated."""

    def differ(self, ours: np.ndarray, theirs: np.ndarray, doubt: float) -> np.ndarray:
        """bool (n,): which rows of two sets of logits (n, classes) give different answers.

        doubt: probabilities that differ by no more count as equal: where two are as good as equal,
        or one lies at its threshold, rounding decides.
        """


@dataclass(frozen=True)
class OneLabel:
    """The classes exclude one another."""

    temperature: float = 1.0

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return softmax(logits / self.temperature)

    def differ(self, ours: np.ndarray, theirs: np.ndarray, doubt: float) -> np.ndarray:
        apart = np.abs(self.probabilities(ours) - self.probabilities(theirs)).max(axis=1)
        return np.asarray((ours.argmax(axis=1) != theirs.argmax(axis=1)) & (apart > doubt))


@dataclass(frozen=True)
class ManyLabels:
    """Each class is a question of its own. thresholds: the least probability of each class that
    an image of it has."""

    thresholds: tuple[float, ...]
    temperature: float = 1.0

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return sigmoid(logits / self.temperature)

    def found(self, logits: np.ndarray) -> np.ndarray:
        """bool (..., classes): the labels of each image."""
        return np.asarray(self.probabilities(logits) >= np.array(self.thresholds))

    def differ(self, ours: np.ndarray, theirs: np.ndarray, doubt: float) -> np.ndarray:
        apart = np.abs(self.probabilities(ours) - self.probabilities(theirs))
        return np.asarray(((self.found(ours) != self.found(theirs)) & (apart > doubt)).any(axis=1))


@dataclass(frozen=True)
class Cuts:
    """Two classes: thresholds on the calibrated probability of the positive one, from which on an
    image is answered with it. positive: its number. by_name: what each is the best for."""

    positive: int
    by_name: Mapping[str, float]


def shape_of(temperature: float, thresholds: Sequence[float] | None) -> Shape:
    """The shape of a model. thresholds: None where an image has one label."""
    if thresholds is None:
        return OneLabel(temperature)
    return ManyLabels(tuple(thresholds), temperature)


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 probabilities along the last axis."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    exponents: np.ndarray = np.exp(shifted)
    return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """float64 probability of each logit, without overflow."""
    half = np.exp(-np.abs(logits.astype(np.float64)))
    return np.asarray(np.where(logits >= 0, 1.0, half) / (1 + half))
