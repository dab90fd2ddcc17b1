"""Several labels an image: average precision, thresholds, losses and scores, against references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss

from headstart.evaluation.average_precision import (
    average_precision_values,
    average_precisions,
    mean_average_precision,
)
from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.many_labels import ManyPredictions, many_values, predictions_of
from headstart.evaluation.many_scores import score_many
from headstart.evaluation.metrics import confusion_matrix
from headstart.evaluation.thresholds import FEWEST, choose_thresholds
from headstart.evaluation.transferability import logme
from headstart.evaluation.values import estimate_value, image_values
from headstart.plan.resolution import refuse_for_labels
from headstart.selection.candidates import Evidence
from headstart.selection.drafting import Photos, draft_probes, draft_tuned
from headstart.selection.evidence import _read, _write


def drawn(n: int = 300, k: int = 6, seed: int = 0, rounded: bool = False) -> ManyPredictions:
    """Labels of rising frequency, and logits that know something of them; `rounded` ones tie."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, k)) < np.linspace(0.05, 0.5, k)
    logits = (rng.normal(size=(n, k)) + 1.5 * labels - 1).astype(np.float32)
    logits = np.round(logits * 2) / 2 if rounded else logits
    return ManyPredictions(np.arange(n).astype(str), labels, logits)


def test_average_precision_by_hand() -> None:
    scores = np.array([[4.0], [3.0], [2.0], [1.0]])
    held = np.array([[True], [False], [True], [True]])
    # Precision at the images that have it: 1/1, 2/3, 3/4.
    assert average_precisions(scores, held)[0] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # All scores alike: one step, at which three of four have it.
    assert average_precisions(np.zeros((4, 1)), held)[0] == pytest.approx(3 / 4)


@pytest.mark.parametrize("rounded", [False, True])
def test_average_precision_is_that_of_scikit_learn(rounded: bool) -> None:
    made = drawn(rounded=rounded)
    assert len(np.unique(made.logits)) < made.logits.size or not rounded
    found = average_precisions(made.logits, made.labels)
    for column, held, ap in zip(made.logits.T, made.labels.T, found, strict=True):
        assert ap == pytest.approx(average_precision_score(held, column), abs=1e-9)
    expected = average_precision_score(made.labels, made.logits, average="macro")
    assert mean_average_precision(made.logits, made.labels) == pytest.approx(expected, abs=1e-9)
    assert made.headline == pytest.approx(expected, abs=1e-9)


def test_a_label_without_images_is_left_out_of_the_mean() -> None:
    made = drawn()
    held = made.labels.copy()
    held[:, 0] = False
    found = average_precisions(made.logits, held)
    assert np.isnan(found[0])
    assert mean_average_precision(made.logits, held) == pytest.approx(found[1:].mean())


@pytest.mark.parametrize("rounded", [False, True])
def test_influences_are_derivatives_by_the_weights_of_the_images(rounded: bool) -> None:
    made = drawn(60, 2, rounded=rounded)
    values = average_precision_values(made.logits, made.labels)
    for c in range(2):
        held, column = made.labels[:, c], made.logits[:, c]
        plain = average_precision_score(held, column)
        assert values[:, c].mean() == pytest.approx(plain, abs=1e-12)
        for image in range(0, 60, 7):
            weights, step = np.ones(60), 1e-6
            weights[image] += step
            moved = average_precision_score(held, column, sample_weight=weights)
            slope = (values[image, c] - plain) / 60
            assert (moved - plain) / step == pytest.approx(slope, abs=1e-5)


def test_the_interval_of_map_covers_that_of_the_bootstrap() -> None:
    made = drawn(400)
    value, (low, high) = estimate_value([made], "mean_ap")
    rng = np.random.default_rng(1)
    again = [
        mean_average_precision(made.logits[rows], made.labels[rows])
        for rows in rng.integers(0, 400, (300, 400))
    ]
    assert value == pytest.approx(made.headline)
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(again), rel=0.25)


def test_thresholds_have_the_highest_f1() -> None:
    made = drawn(rounded=True)
    held = made.labels.sum(axis=0)
    assert held.min() >= FEWEST
    chosen = choose_thresholds(made.logits, made.labels)
    for c, least in enumerate(chosen):
        tried = [*np.unique(made.logits[:, c]), np.inf]
        best = max(f1_score(made.labels[:, c], made.logits[:, c] >= t) for t in tried)
        assert f1_score(made.labels[:, c], made.logits[:, c] >= least) == pytest.approx(best)
        assert least not in made.logits[:, c]  # half way, so that rounding decides nothing


def test_a_label_with_few_images_takes_the_threshold_of_all() -> None:
    made = drawn()
    held = made.labels.copy()
    held[:, 0] = False
    held[: FEWEST - 1, 0] = True
    chosen = choose_thresholds(made.logits, held)
    tried = np.unique(made.logits)
    best = max(f1_score(held.ravel(), (made.logits >= t).ravel()) for t in tried[::20])
    own = f1_score(held.ravel(), (made.logits >= chosen[0]).ravel())
    assert own >= best
    assert not np.isclose(chosen[1], chosen[0])
    assert (choose_thresholds(made.logits, np.zeros_like(held)) == 0).all()


def test_losses_are_sums_of_binary_cross_entropies() -> None:
    made = drawn()
    expected = sum(
        log_loss(held, p) for held, p in zip(made.labels.T, made.probabilities.T, strict=True)
    )
    assert made.losses.mean() == pytest.approx(expected)
    cold = made.losses_at(np.array([np.log(2.0)]), np.float64)[0]
    assert cold == pytest.approx(made.tempered(0.5).losses)


def test_the_temperature_undoes_what_made_logits_too_large() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1000, 5)) * 2
    held = rng.random((1000, 5)) < 1 / (1 + np.exp(-logits))
    ids = np.arange(1000).astype(str)
    sure = predictions_of(ids, held, (3 * logits).astype(np.float32))
    assert fit_temperature(sure).value == pytest.approx(3, rel=0.1)
    right = predictions_of(ids, held, logits.astype(np.float32))
    assert fit_temperature(right).value == pytest.approx(1, rel=0.1)


def test_scores_are_those_of_scikit_learn() -> None:
    plain = drawn()
    made = ManyPredictions(
        plain.ids, plain.labels, plain.logits, choose_thresholds(plain.logits, plain.labels)
    )
    found = score_many(made, 2.0)
    answers = made.predicted
    assert found.macro_f1 == pytest.approx(f1_score(made.labels, answers, average="macro"))
    assert found.micro_f1 == pytest.approx(f1_score(made.labels, answers, average="micro"))
    assert found.all_right == (answers == made.labels).all(axis=1).mean()
    assert found.loss == pytest.approx(made.tempered(2.0).losses.mean())
    assert found.plain_loss == pytest.approx(made.losses.mean())
    (low, high), value = found.micro_interval, found.micro_f1
    assert low < value < high
    row = found.per_label[2]
    assert row.given == answers[:, 2].sum()
    served = 1 / (1 + np.exp(-made.logits[:, 2].astype(np.float64) / 2))
    assert ((served >= row.threshold) == answers[:, 2]).all()
    pair = found.mistaken[0]
    missed = made.labels[:, pair.missing] & ~answers[:, pair.missing]
    wrong = answers[:, pair.instead] & ~made.labels[:, pair.instead]
    assert pair.images == (missed & wrong).sum()


def test_a_temperature_changes_no_answer() -> None:
    plain = drawn()
    made = ManyPredictions(plain.ids, plain.labels, plain.logits, np.linspace(-1, 1, 6))
    assert (made.tempered(0.3).predicted == made.predicted).all()


def test_metrics_are_means_of_their_values() -> None:
    made = drawn()
    assert image_values(made, "mean_ap").mean() == pytest.approx(made.headline)
    sensitivity = (made.predicted & made.labels).sum(0) / made.labels.sum(0)
    specificity = (~made.predicted & ~made.labels).sum(0) / (~made.labels).sum(0)
    balanced = ((sensitivity + specificity) / 2).mean()
    assert many_values(made, "balanced_accuracy").mean() == pytest.approx(balanced)


def test_what_means_nothing_of_several_labels_is_refused() -> None:
    made = drawn()
    with pytest.raises(ValueError, match="no confusion matrix"):
        confusion_matrix(made)
    with pytest.raises(TypeError):
        _ = made.confidence
    with pytest.raises(ValueError, match="several labels"):
        image_values(made, "macro_f1")


def test_fit_drafts_probes_that_map_chooses() -> None:
    photos = Photos({"source": "manifest:labels.csv", "labels": "many"}, (100, 10), 20)
    study = draft_probes("photos", photos, ["resnet18", "vgg16"])
    recipes = study.recipes()
    assert [recipe.chooses_by for recipe in recipes] == ["mean_ap", "mean_ap"]  # none is weighted
    assert all(recipe.evaluation.folds == 0 for recipe in recipes)
    for recipe in draft_tuned(study, {"resnet18": 3}).recipes():
        refuse_for_labels(recipe)


def test_evidence_of_several_labels_is_kept_as_numbers(tmp_path: Path) -> None:
    made = drawn()
    evidence = Evidence(image_values(made, "mean_ap"), 0.1, 10, 1.0, 0.1, 0.1, 100.0)
    assert evidence.accuracy == pytest.approx(made.headline)
    _write(tmp_path / "e.json", evidence)
    again = _read(tmp_path / "e.json")
    assert again is not None and (again.values(False) == evidence.hits).all()
    labels = made.labels[:, :3]
    one = logme(made.logits.astype(np.float64), labels, 3)
    assert np.isfinite(one)
