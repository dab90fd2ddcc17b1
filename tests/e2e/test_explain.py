"""`headstart explain` on real runs: the shipped ladder on a few images, and what it says of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.rundir.run import open_run
from tests.conftest import Outcome, link_weights

Command = Callable[..., Outcome]

RUNGS = ["as-claimed", "right-scaling", "right-size", "fine-tuned"]
SMALL = ("data.source=cifar10-mini", "data.train_limit=100", "data.test_limit=60")


@pytest.fixture(scope="module")
def ladder(
    real_weights: str, weights_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The finished study, made once, on a backbone whose weights the tests have."""
    from headstart import compare, load_study

    folder = tmp_path_factory.mktemp("ladder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(link_weights(folder / "cache", weights_folder)))
        study = load_study("ladder", [*SMALL, f"backbone.name={real_weights}"])
        compare(study, out=folder / "study")
    return folder / "study"


def test_the_ladder_is_explained_from_its_directory(ladder: Path, headstart: Command) -> None:
    outcome = headstart("explain", ladder, "--json")
    assert outcome.code == 0, outcome.err
    answer = json.loads(outcome.out)
    assert [entry["run"] for entry in answer["entries"]] == RUNGS
    assert answer["ladder"] is True
    assert [step["groups"] for step in answer["steps"]] == [["scaling"], ["size"], ["training"]]
    accuracies = [open_run(ladder / rung).metrics.test.accuracy for rung in RUNGS]
    changes = [step["change"] for step in answer["steps"]]
    assert changes == pytest.approx(np.diff(accuracies))
    assert changes[1] > 0.1  # 112 pixels instead of 32
    text = headstart("explain", *(ladder / rung for rung in RUNGS)).out
    assert "right-scaling -> right-size: +" in text
    assert "(data.size 32 -> 112)" in text
    assert "as-claimed (data.normalize = unit): pixels reach the network as 0..1" in text
    two = headstart("explain", ladder / RUNGS[0], ladder / RUNGS[2]).out
    assert "size and scaling changed at once, so the change cannot be assigned" in two


def test_the_advice_for_one_run_is_a_recipe_that_loads(ladder: Path, headstart: Command) -> None:
    outcome = headstart("explain", ladder / "as-claimed")
    assert outcome.code == 0, outcome.err
    # Not run: 224 pixels take long. That it loads and resolves is what `check` proves.
    line = next(row for row in outcome.out.splitlines() if "--set data.size=224" in row)
    _, verb, *words = shlex.split(line)
    assert verb == "run"
    checked = headstart("check", *words, "--json")
    assert checked.code == 0, checked.err
    recipe = json.loads(checked.out)["recipe"]
    assert (recipe["data"]["normalize"], recipe["data"]["size"]) == ("weights", 224)
    assert recipe["name"] in outcome.out.splitlines()[-1]


def test_the_report_tells_the_same(ladder: Path) -> None:
    html = (ladder / "report.html").read_text(encoding="utf-8")
    assert "What changed what" in html
    assert html.count('class="rung"') == 4
    changes_section = html.split('id="changes"')[1].split('id="cost"')[0]
    assert "<code>data.normalize</code> unit → weights" in changes_section


def test_every_rung_answers_for_the_same_random_images(ladder: Path) -> None:
    shown = [open_run(ladder / rung).pictures for rung in RUNGS]
    counts = np.bincount(shown[0]["prediction_labels"], minlength=10)
    assert counts.sum() == 24
    assert counts.max() - counts.min() == 1
    for rung, pictures in zip(RUNGS, shown, strict=True):
        assert np.array_equal(pictures["prediction_images"], shown[0]["prediction_images"])
        saved = open_run(ladder / rung).predictions("test")
        rows = [list(saved.ids).index(name) for name in pictures["prediction_ids"]]
        assert np.array_equal(saved.predicted[rows], pictures["prediction_predicted"])
        assert np.array_equal(saved.labels[rows], pictures["prediction_labels"])
        sure = saved.tempered(open_run(ladder / rung).metrics.temperature).confidence[rows]
        assert pictures["prediction_confidence"] == pytest.approx(sure, abs=1e-6)


def test_a_study_directory_can_be_compared_again(
    ladder: Path, tmp_path: Path, headstart: Command
) -> None:
    before = (ladder / "comparison.json").read_bytes()
    outcome = headstart("compare", ladder, "--out", tmp_path / "again", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert {run["name"] for run in result["runs"]} == set(RUNGS)
    assert (tmp_path / "again" / "report.html").exists()
    assert (ladder / "comparison.json").read_bytes() == before
    again = json.loads(headstart("explain", tmp_path / "again", "--json").out)
    assert [entry["run"] for entry in again["entries"]] == RUNGS
    refused = headstart("compare", ladder, "--set", "seed=1")
    assert refused.code == 2
    assert "these runs exist" in refused.err
    assert headstart("report", ladder, "--out", tmp_path / "one.html").code == 0


def test_what_cannot_be_explained_is_one_line(
    ladder: Path, tmp_path: Path, headstart: Command
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("recipe.toml", "metrics.json", "cost.json"):
        (other / name).write_bytes((ladder / "right-size" / name).read_bytes())
    manifest = json.loads((ladder / "right-size" / "manifest.json").read_text())
    manifest["provenance"]["data"]["test_fingerprint"] = "0" * 16
    (other / "manifest.json").write_text(json.dumps(manifest))
    for words, says in (
        ((ladder / "as-claimed", other), "tested on different images"),
        (("nowhere",), "not a run directory"),
    ):
        outcome = headstart("explain", *words)
        assert (outcome.code, outcome.out) == (2, "")
        (line,) = outcome.err.splitlines()
        assert line.startswith("error: ")
        assert says in line
