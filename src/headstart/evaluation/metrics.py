"""Scores of saved predictions: arrays in, numbers out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from headstart.evaluation.calibration import brier, log_loss
from headstart.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Scores:
    """Scores on one split. Fractions are in 0..1, losses in nats."""

    n: int
    accuracy: float
    interval: tuple[float, float]  # 95 %, Wilson
    top5: float
    loss: float  # mean cross-entropy of the predictions, no penalty term
    brier: float  # squared error of the probabilities, summed over classes, in 0..2
    per_class: list[dict[str, float]]  # precision, recall, f1, n; in class order
    macro_f1: float
    macro_precision: float
    macro_recall: float  # balanced accuracy
    confusion: list[list[int]]  # [true][predicted]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score(predictions: Predictions) -> Scores:
    """Score predictions. With fewer than five classes, top-5 is 1 by definition.

    A class that the split has no image of has no recall: it is left out of that mean, and, where it
    is never answered either, out of those of precision and F1. A class that is never answered has
    precision 0. These are scikit-learn's conventions. Raises ValueError on an empty split.
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
        top5=_top_k(predictions, 5),
        loss=log_loss(predictions),
        brier=brier(predictions),
        per_class=per_class,
        macro_f1=_macro(per_class, "f1", met),
        macro_precision=_macro(per_class, "precision", met),
        macro_recall=_macro(per_class, "recall", labelled),
        confusion=confusion.tolist(),
    )


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927): keeps its coverage near 0 and 1."""
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def mcnemar(first: Predictions, second: Predictions) -> float:
    """Exact two-sided McNemar p-value that two models err equally often on the same images.

    Only images that exactly one of them gets right count (McNemar 1947; exact binomial form).
    Raises ValueError where the two are not about the same images in the same order.
    """
    if not np.array_equal(first.ids, second.ids):
        raise ValueError("the predictions are about different images")
    only_first = int((first.correct & ~second.correct).sum())
    only_second = int((second.correct & ~first.correct).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


@dataclass(frozen=True)
class PairedChange:
    """What a second model does to a first one's accuracy on the same images. Fractions in -1..1."""

    n: int
    gained: int  # images that only the second gets right
    lost: int  # images that only the first gets right
    change: float  # accuracy of the second minus that of the first
    interval: tuple[float, float]  # 95 %, Bonett and Price
    p_value: float  # exact McNemar


def paired_change(
    first: Predictions, second: Predictions, confidence: float = 0.95
) -> PairedChange:
    """The second's accuracy minus the first's, with an interval from their paired counts.

    Images that both get right or wrong cancel, so this is narrower than two separate intervals
    suggest. The interval is Bonett and Price's (2012): Wald's after adding one image to each kind
    of disagreement, which keeps its coverage where disagreements are few. Raises ValueError where
    the two are not about the same images in the same order, or about none.
    """
    p_value = mcnemar(first, second)
    n = len(first)
    if n == 0:
        raise ValueError("no predictions to compare")
    gained = int((second.correct & ~first.correct).sum())
    lost = int((first.correct & ~second.correct).sum())
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    half = z * float(np.sqrt((up + down - (up - down) ** 2) / (n + 2)))
    interval = (max(-1.0, up - down - half), min(1.0, up - down + half))
    return PairedChange(n, gained, lost, (gained - lost) / n, interval, p_value)


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """int64 (classes, classes): rows are true classes, columns predicted ones."""
    classes = predictions.logits.shape[1]
    flat = predictions.labels * classes + predictions.predicted
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def confident_mistakes(predictions: Predictions, most: int) -> np.ndarray:
    """Rows of the wrong answers, surest first: int64 (at most `most`,)."""
    wrong = np.flatnonzero(~predictions.correct)
    return wrong[np.argsort(-predictions.confidence[wrong], kind="stable")[:most]]


def _top_k(predictions: Predictions, k: int) -> float:
    own = np.take_along_axis(predictions.logits, predictions.labels[:, None], axis=1)
    return float(((predictions.logits > own).sum(axis=1) < k).mean())


def _per_class(confusion: np.ndarray) -> list[dict[str, float]]:
    hits = np.diag(confusion).astype(np.float64)
    support = confusion.sum(axis=1)
    precision = hits / np.maximum(confusion.sum(axis=0), 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return [
        {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
        for p, r, f, n in zip(precision, recall, f1, support, strict=True)
    ]


def _macro(per_class: list[dict[str, float]], name: str, classes: np.ndarray) -> float:
    """The plain mean over some classes; classes: bool (k,)."""
    return float(np.mean([row[name] for row in per_class], where=classes))
