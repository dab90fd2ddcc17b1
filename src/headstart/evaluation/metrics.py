"""Scores of saved predictions: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.evaluation.calibration import brier, log_loss
from headstart.evaluation.classes import balanced_interval
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval
from headstart.evaluation.two_classes import DEFAULT_POSITIVE, TwoClasses, two_class_scores
from headstart.files import to_json
from headstart_predict.cards import Card, Shown, interval, percent


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of one class. n: its number of images."""

    precision: float
    recall: float
    f1: float
    n: int


@dataclass(frozen=True, repr=False)
class Scores(Shown):
    """Scores on one split. Fractions are in 0..1, losses in nats. The confusion matrix is not
    among them: it grows with the square of the classes, and `confusion_matrix` counts it."""

    n: int
    accuracy: float
    interval: tuple[float, float]  # 95 %, Wilson
    top5: float | None  # None with five classes or fewer, where it is always 1
    loss: float  # mean cross-entropy of the predictions, no penalty term
    brier: float  # squared error of the probabilities, summed over classes, in 0..2
    per_class: tuple[ClassScores, ...]  # in class order
    macro_f1: float
    macro_precision: float
    macro_recall: float  # balanced accuracy
    balanced_interval: tuple[float, float]  # 95 %, of balanced accuracy
    majority: float  # accuracy of always predicting the most frequent class of these labels
    two_classes: TwoClasses | None  # None unless there are two classes, with images of both

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dict(to_json(self))

    def _card(self) -> Card:
        balanced = f"{percent(self.macro_recall)} {interval(self.balanced_interval)}"
        facts = [
            ("accuracy", f"{percent(self.accuracy)} {interval(self.interval)}"),
            ("balanced", balanced),
            ("macro F1", f"{self.macro_f1:.3f}"),
            ("log loss", f"{self.loss:.3f}"),
        ]
        return Card(f"Scores on {self.n:,} images, {len(self.per_class)} classes", facts)


def score(predictions: Predictions, *, positive: int = DEFAULT_POSITIVE) -> Scores:
    """Score predictions. positive: with two classes, the number of the positive one.

    A class without images has no recall and is left out of the mean recall. If it is never
    predicted either, it is left out of the means of precision and F1 too. A class that is never
    predicted has precision 0. These are scikit-learn's conventions. Raises ValueError on an empty
    split.
    """
    n = len(predictions)
    if n == 0:
        raise ValueError("no predictions to score")
    confusion = confusion_matrix(predictions)
    per_class = _per_class(confusion)
    labelled = confusion.sum(axis=1) > 0
    met = labelled | (confusion.sum(axis=0) > 0)
    return Scores(
        n=n,
        accuracy=float(predictions.correct.mean()),
        interval=wilson_interval(int(predictions.correct.sum()), n),
        top5=_top_k(predictions, 5) if len(confusion) > 5 else None,
        loss=log_loss(predictions),
        brier=brier(predictions),
        per_class=per_class,
        macro_f1=_macro(per_class, "f1", met),
        macro_precision=_macro(per_class, "precision", met),
        macro_recall=_macro(per_class, "recall", labelled),
        balanced_interval=balanced_interval(np.diag(confusion), confusion.sum(axis=1)),
        majority=float(confusion.sum(axis=1).max() / n),
        two_classes=two_class_scores(predictions, positive),
    )


def selection_value(predictions: Predictions, select_by: str, *, balanced: bool = False) -> float:
    """The value that decides a choice on validation; higher is better.

    select_by: accuracy, balanced_accuracy and macro_f1, in 0..1, and mean_ap of several labels an
    image; or loss: the negative of `selection_loss`, in nats. Raises ValueError on another name and
    on an empty split.
    """
    if len(predictions) == 0:
        raise ValueError("no predictions to choose by")
    if select_by == "accuracy":
        return float(predictions.correct.mean())
    if select_by == "loss":
        return -selection_loss(predictions, balanced=balanced)
    if select_by == "mean_ap":
        return predictions.headline
    confusion = confusion_matrix(predictions)
    labelled = confusion.sum(axis=1) > 0
    if select_by == "balanced_accuracy":
        return _macro(_per_class(confusion), "recall", labelled)
    if select_by == "macro_f1":
        return _macro(_per_class(confusion), "f1", labelled | (confusion.sum(axis=0) > 0))
    raise ValueError(f"select_by: no metric {select_by!r}")


def selection_loss(predictions: Predictions, *, balanced: bool) -> float:
    """The log loss in nats, for a choice by loss and to break ties.

    The mean over the images; if `balanced`, the mean of the classes' means, with the weights of
    `balance = "auto"` in training.
    """
    if not balanced:
        return log_loss(predictions)
    rows = np.arange(len(predictions))
    own = -predictions.log_probabilities[rows, predictions.labels]
    n = np.bincount(predictions.labels)
    return float((np.bincount(predictions.labels, own)[n > 0] / n[n > 0]).mean())


def selection_key(
    predictions: Predictions, select_by: str, *, balanced: bool = False
) -> tuple[float, float]:
    """The value to choose by, and the negative loss to break ties. The larger key is better.

    balanced: whether the recipe balances its classes (`balance = "auto"`).
    """
    loss = selection_loss(predictions, balanced=balanced)
    return selection_value(predictions, select_by, balanced=balanced), -loss


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """int64 (classes, classes): rows are true classes, columns predicted ones."""
    if predictions.labels.ndim != 1:
        raise ValueError("images with several labels have no confusion matrix")
    classes = predictions.logits.shape[1]
    flat = predictions.labels * classes + predictions.predicted
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def _top_k(predictions: Predictions, k: int) -> float:
    own = np.take_along_axis(predictions.logits, predictions.labels[:, None], axis=1)
    return float(((predictions.logits > own).sum(axis=1) < k).mean())


def _per_class(confusion: np.ndarray) -> tuple[ClassScores, ...]:
    hits = np.diag(confusion).astype(np.float64)
    support = confusion.sum(axis=1)
    precision = hits / np.maximum(confusion.sum(axis=0), 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return tuple(
        ClassScores(float(p), float(r), float(f), int(n))
        for p, r, f, n in zip(precision, recall, f1, support, strict=True)
    )


def _macro(per_class: Sequence[ClassScores], name: str, classes: np.ndarray) -> float:
    """The plain mean over some classes; classes: bool (k,)."""
    return float(np.mean([getattr(row, name) for row in per_class], where=classes))
