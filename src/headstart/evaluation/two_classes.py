"""Two classes, one of them positive.

Sensitivity is the recall of the positive class, specificity the recall of the other one. ROC and
precision-recall curves show the results at other thresholds on the positive class's probability.
Arrays in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart.errors import RecipeError, did_you_mean
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval

DEFAULT_POSITIVE = 1  # the second class, as in scikit-learn
MOST = 200  # the most points of a drawn curve


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of n images with its 95 % interval (Wilson)."""

    value: float
    interval: tuple[float, float]
    n: int


@dataclass(frozen=True, slots=True)
class TwoClasses:
    """Scores for two classes. positive: the number of the positive class.

    roc_area: the probability that a random positive image gets a higher score than a random
    negative one; ties count half. pr_area: average precision; a random model has `prevalence`, the
    positive class's share of the images.
    """

    positive: int
    prevalence: float
    sensitivity: Rate
    specificity: Rate
    roc_area: float
    pr_area: float


def positive_class(class_names: Sequence[str], asked: str | None) -> int:
    """The number of the positive class: the one that the recipe names, else the second.

    Raises RecipeError where `asked` is none of two classes.
    """
    if asked is None:
        return DEFAULT_POSITIVE
    if len(class_names) != 2:
        raise RecipeError(
            f"evaluation.positive: is for two classes, not for {len(class_names)}: leave it out"
        )
    if asked not in class_names:
        raise RecipeError(
            f"evaluation.positive: no class {asked!r}{did_you_mean(asked, class_names)}; "
            f"the classes are {' and '.join(class_names)}"
        )
    return list(class_names).index(asked)


def two_class_scores(predictions: Predictions, positive: int) -> TwoClasses | None:
    """Scores for two classes; None unless there are two classes with images of both."""
    positives = predictions.labels == positive
    if predictions.logits.shape[1] != 2 or not 0 < positives.sum() < len(positives):
        return None
    from sklearn.metrics import average_precision_score, roc_auc_score

    score = _score(predictions, positive)
    return TwoClasses(
        positive=positive,
        prevalence=float(positives.mean()),
        sensitivity=_recall(predictions, positives),
        specificity=_recall(predictions, ~positives),
        roc_area=float(roc_auc_score(positives, score)),
        pr_area=float(average_precision_score(positives, score)),
    )


def _recall(predictions: Predictions, rows: np.ndarray) -> Rate:
    hits, n = int(predictions.correct[rows].sum()), int(rows.sum())
    return Rate(hits / n, wilson_interval(hits, n), n)


def two_class_curves(predictions: Predictions, positive: int) -> dict[str, list[tuple[float, ...]]]:
    """Points to draw, MOST at most: "roc" by (1 - specificity, sensitivity), and "pr" by
    (recall, precision). Needs images of both classes."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    positives, score = predictions.labels == positive, _score(predictions, positive)
    false_positive, true_positive, _ = roc_curve(positives, score)
    precision, recall, _ = precision_recall_curve(positives, score)
    return {
        "roc": _thinned(false_positive, true_positive),
        "pr": _thinned(recall[::-1], precision[::-1]),
    }


def _score(predictions: Predictions, positive: int) -> np.ndarray:
    """float64 (n,): the difference of the logits. It orders images like the probability, but does
    not round to 1."""
    logits = predictions.logits.astype(np.float64)
    return np.asarray(logits[:, positive] - logits[:, 1 - positive])


def _thinned(x: np.ndarray, y: np.ndarray) -> list[tuple[float, ...]]:
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST)).round().astype(int))
    return [(float(x[k]), float(y[k])) for k in rows]
