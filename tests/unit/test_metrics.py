"""Metrics agree with the libraries that define the same thing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from headstart.evaluation.metrics import (
    ClassScores,
    confusion_matrix,
    score,
    selection_key,
    selection_loss,
    selection_value,
)
from headstart.evaluation.predictions import Predictions


def random_predictions(seed: int, n: int = 400, classes: int = 7) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += 1.5
    return Predictions(np.array([f"test/{i}" for i in range(n)]), labels, logits)


@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_scikit_learn(seed: int) -> None:
    p = random_predictions(seed)
    scores = score(p)
    close = {"rel": 0, "abs": 1e-9}
    assert scores.accuracy == pytest.approx(
        reference.accuracy_score(p.labels, p.predicted), **close
    )
    assert scores.loss == pytest.approx(reference.log_loss(p.labels, p.probabilities), **close)
    top5 = reference.top_k_accuracy_score(p.labels, p.logits, k=5, labels=range(7))
    assert scores.top5 == pytest.approx(top5, **close)
    counted = reference.confusion_matrix(p.labels, p.predicted)
    assert confusion_matrix(p).tolist() == counted.tolist()
    expected = reference.precision_recall_fscore_support(p.labels, p.predicted)
    for name, column in zip(("precision", "recall", "f1", "n"), expected, strict=True):
        assert [getattr(row, name) for row in scores.per_class] == pytest.approx(
            list(column), **close
        )
    brier = reference.brier_score_loss(p.labels, p.probabilities, scale_by_half=False)
    assert scores.brier == pytest.approx(brier, **close)
    agree_on_means(p)


def agree_on_means(p: Predictions) -> None:
    scores, close = score(p), {"rel": 0, "abs": 1e-9}
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        p.labels, p.predicted, average="macro", zero_division=0
    )
    assert scores.macro_precision == pytest.approx(precision, **close)
    assert scores.macro_f1 == pytest.approx(f1, **close)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
        balanced = reference.balanced_accuracy_score(p.labels, p.predicted)
    assert scores.macro_recall == pytest.approx(balanced, **close)
    if set(p.predicted) <= set(p.labels):
        assert scores.macro_recall == pytest.approx(recall, **close)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("absent", [(), (0,), (2, 6)])
def test_means_over_classes_agree_where_some_are_absent(seed: int, absent: tuple[int, ...]) -> None:
    """Absent as labels, and as answers too, or only as labels."""
    p = random_predictions(seed)
    kept = ~np.isin(p.labels, absent)
    some = Predictions(p.ids[kept], p.labels[kept], p.logits[kept])
    assert set(some.predicted) == set(range(7))
    agree_on_means(some)
    never = some.logits.copy()
    never[:, list(absent)] = -50
    agree_on_means(Predictions(some.ids, some.labels, never))


def test_a_class_nobody_predicts_and_an_empty_split() -> None:
    labels = np.array([0, 1, 2])
    logits = np.tile(np.float32([3, 1, 0]), (3, 1))
    rows = score(Predictions(labels.astype(str), labels, logits)).per_class
    assert rows[2] == ClassScores(precision=0.0, recall=0.0, f1=0.0, n=1)
    empty = Predictions(np.array([], str), np.array([], np.int64), np.zeros((0, 3), np.float32))
    with pytest.raises(ValueError, match="no predictions"):
        score(empty)


@pytest.mark.parametrize("seed", range(3))
def test_what_validation_chooses_by_agrees_with_scikit_learn(seed: int) -> None:
    p = random_predictions(seed)
    close = {"rel": 0, "abs": 1e-9}
    for name, expected in (
        ("accuracy", reference.accuracy_score(p.labels, p.predicted)),
        ("balanced_accuracy", reference.balanced_accuracy_score(p.labels, p.predicted)),
        ("macro_f1", reference.f1_score(p.labels, p.predicted, average="macro")),
        ("loss", -reference.log_loss(p.labels, p.probabilities)),
    ):
        assert selection_value(p, name) == pytest.approx(expected, **close), name
    weights = 1 / np.bincount(p.labels)[p.labels]
    balanced = reference.log_loss(p.labels, p.probabilities, sample_weight=weights)
    assert selection_loss(p, balanced=True) == pytest.approx(balanced, **close)
    assert selection_value(p, "loss", balanced=True) == pytest.approx(-balanced, **close)
    with pytest.raises(ValueError, match="no metric 'auto'"):
        selection_value(p, "auto")


def test_a_rare_class_found_beats_a_majority_answered() -> None:
    """Eight images of one class and two of another: always answering the first is right on 80 %."""
    labels = np.repeat([0, 1], [8, 2])
    always = Predictions(labels.astype(str), labels, np.tile(np.float32([2, 0]), (10, 1)))
    finds = np.tile(np.float32([2, 0]), (10, 1))
    finds[[0, 1, 2, 8, 9]] = [0, 2]  # both of the rare class, three of the frequent one lost
    fair = Predictions(labels.astype(str), labels, finds)
    assert score(always).majority == score(always).accuracy == 0.8
    assert selection_key(always, "accuracy") > selection_key(fair, "accuracy")
    for name in ("balanced_accuracy", "macro_f1"):
        assert selection_key(fair, name) > selection_key(always, name)
    surer = Predictions(fair.ids, labels, finds * 0.5)  # as right, and less sure of its mistakes
    assert selection_key(surer, "accuracy") > selection_key(fair, "accuracy")
