"""Unequal classes, from the choice between runs to what is printed: accuracy alone says little."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.cli.tables.comparison import format_comparison
from headstart.cli.tables.explanation import format_explanation
from headstart.cli.tables.run import format_run, run_to_json
from headstart.comparison.explain import explain_runs
from headstart.comparison.leaderboard import build_comparison
from headstart.comparison.records import Comparison
from headstart.evaluation.corruptions import Applied, corrupted_scores
from headstart.evaluation.duplicates import without_duplicates
from headstart.evaluation.metrics import selection_value
from headstart.evaluation.predictions import Predictions
from headstart.report.card import render_card
from headstart.report.markdown import render_markdown
from headstart.report.page import render
from headstart.rundir.run import Run
from headstart.selection.candidates import Candidate, Evidence
from headstart.selection.halving import select
from headstart.specs import BackboneSpec
from tests.fabricating import fabricate, recost

NAMES = ["crack", "free", "stain"]
COUNTS = (40, 400, 60)  # "free" is 80 % of the images


def answers(
    recalls: tuple[float, ...], prefix: str, sure: float = 3.0, skip: int = 0
) -> Predictions:
    """Of each class this share is right, from its image number `skip` on; the rest is taken for
    "free", and what is free for a stain."""
    labels = np.repeat(np.arange(3), COUNTS)
    place = np.concatenate([np.arange(n) for n in COUNTS])
    share = (place - skip) % np.array(COUNTS)[labels] / np.array(COUNTS)[labels]
    right = share < np.array(recalls)[labels]
    given = np.where(right, labels, np.where(labels == 1, 2, 1))
    logits = np.zeros((len(labels), 3), np.float32)
    logits[np.arange(len(labels)), given] = sure
    return Predictions(np.array([f"{prefix}/{k}" for k in range(len(labels))]), labels, logits)


PLAIN = (0.55, 0.98, 0.60)  # balanced 71.0 %, accuracy 90.0 %
FAIR = (0.90, 0.90, 0.95)  # balanced 91.7 %, accuracy 90.6 %
WORSE = (0.95, 0.86, 0.95)  # balanced 92.0 %, accuracy 87.8 %


def planted(
    root: Path, name: str, recalls: tuple[float, ...], *, sure: float = 3.0, **settings: Any
) -> Run:
    given = answers(recalls, "val", sure), answers(recalls, "test", sure, skip=7)
    return fabricate(root / name, name=name, classes=3, n=500, class_names=NAMES, given=given,
                     backbone="same", settings=settings, labels=given[1].labels)  # fmt: skip


def compared(runs: list[Run], root: Path) -> Comparison:
    return build_comparison("study", [Run(run.path) for run in runs], [], root)


def test_runs_that_balance_are_chosen_and_judged_by_balanced_accuracy(tmp_path: Path) -> None:
    accurate = planted(tmp_path, "accurate", (0.55, 0.98, 0.60), balance="auto")
    fair = planted(tmp_path, "fair", WORSE, balance="auto", seed=1, batch_size=64)
    result = compared([accurate, fair], tmp_path)
    assert result.select_by == "balanced_accuracy"
    by_run = {row.run: row for row in result.rows}
    assert by_run["accurate"].accuracy > by_run["fair"].accuracy  # type: ignore[operator]
    assert (result.best, result.winner, result.rows[0].run) == ("fair", "fair", "fair")
    (pair,) = result.pairs
    assert pair.change == pytest.approx(-0.21, abs=0.01) and pair.p_adjusted < 0.001
    assert pair.test.startswith("permutation")
    assert result.verdict.startswith(
        "Take fair, validation's choice, which wins by balanced accuracy: accurate is "
    )
    assert "Always answering free would be right on 80.0 % of the test images" in result.verdict
    assert "the best run by balanced accuracy" in result.protocol["choice"]
    text = format_comparison(replace(result, path=tmp_path))
    assert "balanced  95 % interval  macro F1" in text and "val balanced" in text
    runs = [accurate, fair]
    page, markdown = render(runs, result), render_markdown(runs, result)
    assert "Balanced accuracy against cost" in page and "Always answering free" in page
    assert "Differences of test balanced accuracy in percentage points" in page
    for label in ("Balanced accuracy", "Macro F1"):
        assert f'<button type="button">{label}</button>' in page
    assert "| balanced accuracy | macro F1 |" in markdown
    assert "Always answering free would be right on 80.0 % of the test images." in markdown


def test_balancing_is_credited_though_accuracy_stays(tmp_path: Path) -> None:
    """Recipes that differ in `balance` name different metrics: it is said which one decides."""
    plain = planted(tmp_path, "plain", (0.55, 0.98, 0.60))
    fair = planted(tmp_path, "fair", (0.90, 0.90, 0.9))
    result = compared([plain, fair], tmp_path)
    assert result.select_by == "accuracy" and result.winner is None
    assert result.classes is not None and result.classes.unequal
    assert "balanced accuracy of" in result.verdict
    balanced = planted(tmp_path, "balanced", (0.90, 0.90, 0.9), balance="auto")
    result = compared([plain, balanced], tmp_path)
    assert (result.select_by, result.best, result.winner) == ("balanced_accuracy",) + (
        "balanced",
    ) * 2
    assert "different metrics (accuracy in 1, balanced accuracy in 1)" in result.protocol["choice"]


def test_a_step_is_explained_in_the_metric_that_is_named(tmp_path: Path) -> None:
    plain = planted(tmp_path, "plain", (0.55, 0.98, 0.60))
    fair = planted(tmp_path, "fair", (0.90, 0.90, 0.95), balance="auto")
    explained = explain_runs([plain, fair])
    (step,) = explained.steps
    assert abs(step.change) < 0.02 and step.p_value > 0.05
    assert step.beside is not None and step.beside.decides and step.significant
    assert step.beside.change == pytest.approx(0.207, abs=0.01) and step.beside.p_value < 0.001
    text = format_explanation(explained)
    assert "plain -> fair: +20." in text and "of balanced accuracy, p < 0.001; +0.6 points" in text
    assert "not told from chance" not in text
    assert "balanced accuracy" in text and "71.0 %" in text
    page = render([plain, fair])
    assert '<strong class="gain">' in page and "of balanced accuracy, p &lt; 0.001" in page
    json.dumps(explained.to_json())
    same = planted(tmp_path, "same", (0.90, 0.90, 0.95))
    (step,) = explain_runs([plain, same]).steps  # no recipe names it: shown, and decides nothing
    assert step.beside is not None and not step.beside.decides and not step.significant


@pytest.mark.parametrize("metric", ["macro_f1", "loss"])
def test_a_comparison_goes_by_the_metric_that_the_recipes_name(tmp_path: Path, metric: str) -> None:
    sure = planted(tmp_path, "sure", FAIR, sure=12.0, select_by=metric)
    modest = planted(tmp_path, "modest", FAIR, sure=2.5, select_by=metric, batch_size=64)
    result = compared([sure, modest], tmp_path)
    if metric == "loss":
        assert (result.best, result.winner) == ("modest", "modest")
        assert "nats behind it" in result.verdict and "wins by log loss" in result.verdict
        assert result.rows[0].val_value == pytest.approx(-result.configurations[0].val_loss)
    else:
        assert result.winner is None and "cannot be told from it" in result.verdict
        assert result.tie.startswith("Tie on validation: sure and modest have the same macro F1")
    text = format_comparison(replace(result, path=tmp_path))
    assert {"macro_f1": "val macro F1", "loss": "val log loss"}[metric] in text
    json.dumps(result.to_json())


def test_a_difference_in_nats_that_would_show_may_be_above_one(tmp_path: Path) -> None:
    first = planted(tmp_path, "first", FAIR, sure=200.0, select_by="loss")
    other = planted(tmp_path, "other", (0.9, 0.895, 0.95), sure=200.0, select_by="loss", seed=1,
                    batch_size=64)  # fmt: skip
    result = compared([first, other], tmp_path)
    assert result.winner is None and result.detectable is not None and result.detectable > 1
    size = f"{result.detectable:.3f} nats"
    assert f"a difference of {size} would be shown" in result.protocol["detectable"]
    assert f"a difference of {size} would be shown" in format_comparison(
        replace(result, path=tmp_path)
    )
    assert f"about {size} mostly stay" in render_markdown([first, other], result)


def test_ties_are_reported_and_broken_by_loss_then_by_cost(tmp_path: Path) -> None:
    late = planted(tmp_path, "late", FAIR, sure=9.0)
    dear = planted(tmp_path, "dear", FAIR, batch_size=64)
    cheap = planted(tmp_path, "cheap", FAIR, batch_size=32)
    for run, macs in ((late, 1_000_000), (dear, 900_000_000), (cheap, 200_000_000)):
        recost(run, macs=macs)
    result = compared([late, dear], tmp_path)
    assert result.best == "dear"
    assert result.tie == (
        "Tie on validation: late and dear have the same accuracy, 90.6 % of 500 images; dear has "
        "the lowest log loss (0.377, the next 0.846)."
    )
    assert result.tie in result.verdict
    result = compared([late, dear, cheap], tmp_path)
    assert result.best == "cheap"
    assert "cheap takes the fewest operations" in result.tie
    other = planted(tmp_path, "other", PLAIN)
    assert not compared([other, dear], tmp_path).tie


def test_runs_that_are_equal_in_all_are_taken_in_the_order_given(tmp_path: Path) -> None:
    equal = [planted(tmp_path, name, FAIR, seed=k) for k, name in enumerate(("one", "two"))]
    for run in equal:
        recost(run, macs=200_000_000)
    assert compared(equal, tmp_path).tie.endswith(
        "the same log loss and as many operations; one comes first in the order given."
    )


def test_equal_values_of_different_images_are_no_tie(tmp_path: Path) -> None:
    runs = [planted(tmp_path, name, FAIR, seed=k) for k, name in enumerate(("one", "two"))]
    val = runs[1].predictions("val")
    ids = np.array([f"elsewhere/{k}" for k in range(len(val))])
    np.savez(
        runs[1].path / "predictions" / "val.npz", ids=ids, labels=val.labels, logits=val.logits
    )
    result = compared(runs, tmp_path)
    assert not result.tie and "Tie" not in result.verdict
    assert "is not a fair one" in result.protocol["choice"]


def test_runs_are_chosen_between_on_the_images_that_all_of_them_hold(tmp_path: Path) -> None:
    """One run holds answers for training images too, hard ones: on the shared images it is best."""
    probe = planted(tmp_path, "probe", FAIR)
    tuned = planted(tmp_path, "tuned", (0.9, 0.89, 0.95), batch_size=64)
    val, hard = probe.predictions("val"), answers((0.2, 0.2, 0.2), "train")
    rng = np.random.default_rng(0)
    rows = rng.permutation(1000)
    more = {
        key: np.concatenate([getattr(val, key), getattr(hard, key)])[rows]
        for key in ("ids", "labels", "logits")
    }
    np.savez(probe.path / "predictions" / "val.npz", **more)  # type: ignore[arg-type]
    result = compared([probe, tuned], tmp_path)
    assert result.best == "probe"
    assert {row.run: row.val_accuracy for row in result.rows} == pytest.approx(
        {"probe": 0.906, "tuned": 0.898}
    )
    assert "on the 500 validation images that all runs hold" in result.protocol["choice"]


def test_a_run_says_what_a_constant_answer_would_reach(tmp_path: Path) -> None:
    run = planted(tmp_path, "plain", PLAIN)
    text = format_run(run)
    assert "balanced       71.0 % [" in text
    assert "always answering free is right on 80.0 %" in text
    assert "top-5" not in text
    shown = run_to_json(planted(tmp_path, "again", PLAIN))["test"]
    assert shown["balanced_accuracy"] == pytest.approx(0.71, abs=0.002)
    assert shown["majority"] == 0.8 and shown["top5"] is None
    page = render([run])
    assert "Always answering free" in page and "71.0" in page
    equal = fabricate(tmp_path / "equal", name="equal")
    assert "Always answering" not in render([equal]).partition("<main")[0]
    assert "balanced" not in format_run(equal) and "top-5" in format_run(equal)


def test_a_budget_keeps_who_finds_the_rare_classes() -> None:
    """Round by round evidence goes by the metric that the recipes name."""
    labels = np.repeat([0, 1], [400, 40])
    hits = {"majority": labels == 0, "fair": np.arange(440) % 12 != 0}
    hits["majority"][400:408] = True

    def evidence_of(candidate: Candidate, per_class: int) -> Evidence:
        return Evidence(hits[candidate.name], 0.0, 10**8, 1.0, 0.5, 0.0, 1e3, labels)

    for metric, kept in (("accuracy", "majority"), ("balanced_accuracy", "fair")):
        two = [
            Candidate(name, name, BackboneSpec(name=name), name, 70.0, 10**8, 10_000, 0, 0, metric)
            for name in hits
        ]
        done = select(two, 25.0, [25], evidence_of)
        assert done.finalists[0].name == kept
        assert ("balanced" in done.rounds[1].evidence) == (metric != "accuracy")
    assert [each.name for each in done.dropped] == ["majority"]
    assert "40.0 %" not in done.dropped[0].why and "60.0%" in done.dropped[0].why


def test_second_scores_are_balanced_too(tmp_path: Path) -> None:
    test = answers(PLAIN, "test")
    block = without_duplicates(test, np.arange(500) % 10 == 0, "the test")
    kept = np.arange(500) % 10 != 0
    own = Predictions(test.ids[kept], test.labels[kept], test.logits[kept])
    assert block.balanced_accuracy == selection_value(own, "balanced_accuracy")
    low, high = block.balanced_interval
    assert low < block.balanced_accuracy < high
    worse = answers((0.1, 1.0, 0.1), "test").logits
    found = corrupted_scores(test, [Applied("blur", 1, "a")], worse[None], 32)
    assert found.balanced_accuracy == pytest.approx(0.71, abs=0.002)
    assert found.balanced_mean == pytest.approx(0.4) and found.mean > 0.8


def test_two_classes_are_reported_with_the_positive_one_named(tmp_path: Path) -> None:
    p = answers(PLAIN, "test")
    rows = p.labels < 2
    two = Predictions(p.ids[rows], p.labels[rows], p.logits[rows, :2])
    run = fabricate(tmp_path / "two", name="two", classes=2, n=440, class_names=["crack", "free"],
                    given=(two, two), labels=two.labels)  # fmt: skip
    text = format_run(run)
    page = render([run])
    assert "The positive class is <strong>free</strong>" in page and "Top-5" not in page
    assert page.count('class="diagonal"') >= 2 and "Area under ROC" in page
    table = page[page.index("Where to draw the line") :]
    assert "finds 95 % of the positive images" in table
    # As answered: 8 of 400 are missed, 18 of 40 are false alarms.
    assert '</td><td class="number">8</td><td class="number">18</td></tr>' in table
    card = render_card(run)
    assert "| sensitivity, for free as the positive class | 98.0 % [96.1, 99.0] |" in card
    assert "top-5" not in card and "with a balanced accuracy of 76.5 %" in card
    assert "sensitivity 98.0 % [96.1, 99.0] for free, the positive class" in text
    assert "specificity 55.0 % [39.8, 69.3] for crack" in text and "area under ROC" in text
