"""Calibration agrees with the libraries that define the same thing, and with closed forms."""

from __future__ import annotations

import itertools
from importlib import import_module

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from headstart.evaluation import calibration as calibrating
from headstart.evaluation import predictions as predicting
from headstart.evaluation.calibration import BINS, calibration, fit_temperature, reliability
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval
from tests.unit.test_metrics import random_predictions


def predictions_of(logits: np.ndarray, labels: np.ndarray) -> Predictions:
    return Predictions(np.arange(len(labels)).astype(str), labels, logits)


def two_point(n: int, share: float, confidence: float) -> Predictions:
    """n images of two classes, answered with one confidence, a share of them rightly."""
    labels = (np.arange(n) >= round(share * n)).astype(np.int64)
    odds = np.log(confidence / (1 - confidence))
    return predictions_of(np.tile([odds, 0.0], (n, 1)), labels)


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_scikit_learn(seed: int) -> None:
    p = random_predictions(seed)
    found = calibration(p)
    close = {"rel": 0, "abs": 1e-9}
    assert found.loss == pytest.approx(reference.log_loss(p.labels, p.probabilities), **close)
    brier = reference.brier_score_loss(p.labels, p.probabilities, scale_by_half=False)
    assert found.brier == pytest.approx(brier, **close)
    right, sure = calibration_curve(p.correct, p.confidence, n_bins=BINS)
    met = [part for part in found.bins if part.n]
    assert [part.accuracy for part in met] == pytest.approx(list(right), **close)
    assert [part.confidence for part in met] == pytest.approx(list(sure), **close)
    share = np.array([part.n for part in met]) / len(p)
    gaps = np.abs(right - sure)
    assert found.ece == pytest.approx(float(gaps @ share), **close)
    assert found.mce == pytest.approx(float(gaps.max()), **close)
    assert [(part.confidence, part.accuracy) for part in found.bins if not part.n] == [
        (None, None)
    ] * (BINS - len(met))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("norm", "name"), [("l1", "ece"), ("max", "mce")])
def test_it_agrees_with_torchmetrics(seed: int, norm: str, name: str) -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    # Beneath its metric, which rounds confidences to float32 and sums them so.
    compute = import_module("torchmetrics.functional.classification.calibration_error")._ce_compute
    p = random_predictions(seed)
    # Its bins have their lower edge and not their upper one: for random confidences the same.
    confidence, right = torch.from_numpy(p.confidence), torch.from_numpy(p.correct)
    theirs = compute(confidence, right, BINS, norm=norm)
    assert getattr(calibration(p), name) == pytest.approx(float(theirs), rel=0, abs=1e-9)


def test_a_closed_form() -> None:
    """Of 100 answers with confidence 0.9, 60 are right; of 100 with 0.7, 70."""
    parts = two_point(100, 0.6, 0.9), two_point(100, 0.7, 0.7)
    logits, labels = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("logits", "labels")
    )
    found = calibration(predictions_of(logits, labels))
    assert found.ece == pytest.approx(0.15)
    assert found.mce == pytest.approx(0.3)
    assert found.brier == pytest.approx(
        (0.6 * 2 * 0.01 + 0.4 * 2 * 0.81 + 0.7 * 2 * 0.09 + 0.3 * 2 * 0.49) / 2
    )
    assert [(part.n, part.accuracy) for part in found.bins if part.n] == [(100, 0.7), (100, 0.6)]
    assert found.bins[13].low < 0.9 <= found.bins[13].high


def test_bins_have_their_upper_edge() -> None:
    """Certainty is in the last bin, and a confidence of a third in the fifth."""
    sure = predictions_of(np.array([[2000.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), np.array([0, 0]))
    assert [part.n for part in calibration(sure).bins] == [0] * 4 + [1] + [0] * 9 + [1]
    with pytest.raises(ValueError, match="no predictions"):
        calibration(predictions_of(np.zeros((0, 3)), np.zeros(0, np.int64)))


@pytest.mark.parametrize("k", [0.05, 0.5, 1.0, 3.0, 40.0])
def test_logits_k_times_too_large_have_temperature_k(k: float) -> None:
    """Answers are right with the confidence that softmax(logits / k) states: the optimum is k, but
    for the prior, which two thousand images hardly feel."""
    calibrated = two_point(2000, 0.8, 0.8)
    p = predictions_of(calibrated.logits * k, calibrated.labels)
    fitted = fit_temperature(p)
    if k == 1:
        assert fitted.value == 1.0
        return
    assert fitted.note is None
    assert fitted.value == pytest.approx(k, rel=2e-2)
    assert calibration(p.tempered(fitted.value)).ece == pytest.approx(0, abs=6e-3)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_temperature_has_a_lower_loss(seed: int) -> None:
    """The posterior of these logits is softmax(1.5 z), so that of 3 z has a temperature near 2."""
    p = random_predictions(seed)
    p = predictions_of(3 * p.logits, p.labels)
    fitted = fit_temperature(p).value
    least = calibration(p.tempered(fitted)).loss
    assert 1.7 < fitted < 2.3
    assert all(calibration(p.tempered(fitted * f)).loss > least for f in (0.2, 0.95, 1.05, 5))


@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [
        ([[5.0, 0.0], [0.0, 1e-6]], [0, 1], "every answer is right"),
        ([[5.0, 0.0]], [0], "every answer is right"),
        ([[1.0, 0.0], [1.0, 0.0]], [0, 1], "beyond chance"),
        ([[0.0, 0.0], [0.0, 0.0]], [0, 1], "beyond chance"),
        ([[1e-5, 0.0], [1e-5, 0.0], [1e-5, 0.0]], [0, 1, 0], "beyond chance"),
    ],
)
def test_where_nothing_tells_a_temperature_it_is_one_and_says_why(
    logits: list[list[float]], labels: list[int], says: str
) -> None:
    fitted = fit_temperature(predictions_of(np.array(logits), np.array(labels)))
    assert fitted.value == 1.0
    assert fitted.note is not None
    assert says in fitted.note


def test_the_temperature_is_that_of_plain_log_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 classes with offsets that a sum of exponentials would not bear, in many blocks."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 40, 300)
    logits = rng.normal(size=(300, 40)) + 2.5 * np.eye(40)[labels]
    p = predictions_of((4 * logits + rng.normal(scale=2000, size=(300, 1))), labels)
    monkeypatch.setattr(predicting, "BLOCK", 7 * 40)

    def cost(sharpness: float) -> float:
        scaled = sharpness * p.logits
        own = scaled[np.arange(300), labels]
        losses = np.logaddexp.reduce(scaled, axis=1) - own
        return float(losses.sum() + calibrating.PRIOR * np.log(sharpness) ** 2)

    fitted = fit_temperature(p).value
    assert fitted > 1.2
    assert cost(1 / fitted) < min(cost(1.001 / fitted), cost(0.999 / fitted))


def test_a_single_mistake_among_few_images_sharpens_nothing() -> None:
    """Of 72 answers with confidence 0.9, 71 are right: sharper by the fit, by no other image."""
    p = two_point(72, 71 / 72, 0.9)
    fitted = fit_temperature(p)
    assert fitted.value == 1.0
    assert fitted.note is not None and "beyond chance" in fitted.note


def test_what_is_served_is_seldom_worse_than_what_the_model_says() -> None:
    """Calibrated answers of three classes, thirty times 60 images: chance alone moves T from 1."""
    worse = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        logits = rng.normal(scale=2.0, size=(60 + 4000, 3))
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        labels = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)
        fitted = fit_temperature(predictions_of(logits[:60], labels[:60])).value
        later = predictions_of(logits[60:], labels[60:])
        worse += calibration(later.tempered(fitted)).loss > calibration(later).loss + 1e-3
    assert worse <= 4


@pytest.mark.parametrize("temperature", [0.013, 0.7, 3.1, 99.0])
def test_a_temperature_changes_no_answer(temperature: float) -> None:
    """Not even where the two best logits are neighbouring float32 numbers."""
    best = np.random.default_rng(0).normal(scale=10, size=1000).astype(np.float32)
    close = np.stack([np.nextafter(best, np.float32(-np.inf)), best], axis=1)
    p = predictions_of(close, np.zeros(1000, np.int64))
    assert (p.predicted == 1).all()
    assert (p.tempered(temperature).predicted == 1).all()
    assert np.allclose(p.tempered(1.0).probabilities, p.probabilities)


def test_bins_of_a_drawing_hold_enough_answers_each_with_its_interval() -> None:
    p = random_predictions(0)
    few = Predictions(p.ids[:49], p.labels[:49], p.logits[:49])
    shares = reliability(few)
    assert [share.n for share in shares] == [16, 17, 16]
    order = np.argsort(few.confidence)
    own = order[:16]
    assert shares[0].confidence == pytest.approx(few.confidence[own].mean())
    assert shares[0].accuracy == pytest.approx(few.correct[own].mean())
    assert shares[0].interval == wilson_interval(int(few.correct[own].sum()), 16)
    assert [a.high <= b.low for a, b in itertools.pairwise(shares)] == [True, True]
    many = reliability(two_of_each(4000))
    assert len(many) == 10
    assert {share.n for share in many} == {400}


def two_of_each(n: int) -> Predictions:
    """n answers, each of another confidence."""
    odds = np.linspace(0.1, 4, n)
    return predictions_of(np.stack([odds, 0 * odds], axis=1), np.zeros(n, np.int64))


def test_answers_of_one_confidence_share_a_bin() -> None:
    (share,) = reliability(two_point(400, 0.7, 0.8))
    assert (share.n, share.accuracy) == (400, pytest.approx(0.7))
    empty = predictions_of(np.zeros((0, 2)), np.zeros(0, np.int64))
    assert reliability(empty) == ()
