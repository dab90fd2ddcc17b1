"""Which run fit takes where validation does not tell backbones apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.evaluation.predictions import Predictions
from headstart.rundir.history import Refit
from headstart.rundir.run import Run
from headstart.selection.preference import prefer
from tests.fabricating import fabricate

WEAK, STRONG = "squeezenet1_1", "tf_efficientnet_lite2"  # by published accuracy
Build = Callable[[str, str, Predictions], Run]


def made(wrong: int, n: int, extra: int = 0) -> Predictions:
    """n images, of which the first `wrong` are answered wrongly; before them `extra` others, as a
    run has that holds more validation images."""
    labels = np.arange(n + extra) % 2
    answers = labels.copy()
    answers[:extra] = 1 - labels[:extra]
    answers[extra : extra + wrong] = 1 - labels[extra : extra + wrong]
    ids = np.array([f"a{k}" for k in range(extra)] + [f"b{k}" for k in range(n)])
    return Predictions(ids, labels, np.eye(2, dtype=np.float32)[answers] * 4)


@pytest.fixture
def run(tmp_path: Path) -> Build:
    def build(name: str, backbone: str, val: Predictions) -> Run:
        return fabricate(
            tmp_path / name, name=name, backbone=backbone, classes=2, n=40, given=(val, made(4, 40))
        )

    return build


def test_published_accuracy_decides_where_few_images_do_not(run: Build) -> None:
    best, other = run("a", WEAK, made(2, 60)), run("b", STRONG, made(4, 60))
    found = prefer(best, [best, other])
    assert (found.run.name, found.over, found.images) == ("b", "a", 60)


def test_what_validation_tells_apart_is_left_to_it(run: Build) -> None:
    best, other = run("a", WEAK, made(20, 600)), run("b", STRONG, made(40, 600))
    assert prefer(best, [best, other]).run.name == "a"
    assert prefer(best, [best, other]).over is None


def test_a_backbone_that_is_no_better_on_imagenet_is_not_preferred(run: Build) -> None:
    best, other = run("a", STRONG, made(2, 60)), run("b", WEAK, made(2, 60))
    assert prefer(best, [other, best]).run.name == "a"


def test_runs_of_one_backbone_are_compared_on_the_images_that_all_hold(run: Build) -> None:
    best = run("a", WEAK, made(2, 60))
    weighted, tuned = run("b", STRONG, made(6, 60, extra=30)), run("c", STRONG, made(4, 60))
    found = prefer(best, [best, weighted, tuned])
    assert (found.run.name, found.images) == ("c", 60)


def test_a_head_that_was_fitted_to_validation_too_is_preferred_to_fine_tuning(run: Build) -> None:
    tuned, probe = run("a", STRONG, made(2, 60)), run("b", STRONG, made(4, 60, extra=30))
    assert prefer(tuned, [tuned, probe]).run.name == "a"
    probe.append_log(Refit(0, 90, 0.1, 1.0))
    found = prefer(tuned, [tuned, probe])
    assert (found.run.name, found.over) == ("b", "a")
    assert "fitted to validation" in found.why
    # What is better beyond chance is taken, whatever its head was fitted to.
    tuned, probe = run("c", STRONG, made(20, 600)), run("d", STRONG, made(40, 600))
    probe.append_log(Refit(0, 600, 0.1, 1.0))
    assert prefer(tuned, [tuned, probe]).run.name == "c"
