"""A comparison with a budget: on real weights, beside the full comparison of the same study."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as library
from headstart.data import Splits, load_data
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.plan.plan import make_plan
from headstart.recipe import load_study
from headstart.rundir.run import open_run
from headstart.selection import evidence
from headstart.selection import preview as previewing
from headstart.selection.estimating import Speed, total
from headstart.selection.evidence import EvidenceSource
from headstart.selection.workload import TORCH, TRAINED, workload
from headstart.specs import DataSpec
from headstart.training.folds import FOLDS
from tests.conftest import Outcome

STUDY = """\
name = "budgeted"
[data]
source = "cifar10-mini"
train_limit = 600
test_limit = 100
size = 32
[backbone]
name = "tf_efficientnet_lite0"
weights = "registry"
[[phases]]
train = "head"
[grid]
"data.size" = [96, 32]
[[variants]]
name = "unit"
"data.size" = 32
"data.normalize" = "unit"
[[variants]]
name = "tuned"
"data.size" = 96
phases = [{ train = "head" }, { train = "last_stage", epochs = 1, lr = 1e-4 }]
[[variants]]
name = "fails"
"data.size" = 96
"backbone.weights" = "file:nowhere.safetensors"
"""


@pytest.fixture
def study(tmp_path: Path, real_weights: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


class Listener(Reporter):
    """Notes what is tracked, and stops at a label as Ctrl-C would."""

    def __init__(self, stop_at: str = "never") -> None:
        self.tracked: list[tuple[str, int | None]] = []
        self._stop_at = stop_at

    @contextmanager
    def track(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        if label.startswith(self._stop_at):
            raise KeyboardInterrupt
        self.tracked.append((label, total))
        yield lambda done: None

    @property
    def looks(self) -> list[tuple[str, int | None]]:
        """The frozen passes of the evidence: whose, and over how many images."""
        return [(label.split(":")[0], n) for label, n in self.tracked if ": a look" in label]


def test_a_budget_drops_what_is_clearly_worse_and_shows_its_regret(
    study: Path, cache: Path, tmp_path: Path, headstart: Callable[..., Outcome]
) -> None:
    command = ("compare", study, "--out", tmp_path / "out", "--json", "--budget")
    everything = headstart(*command, "9h")
    assert everything.code == 0, everything.err
    first = json.loads(everything.out)["selection"]
    # There is time for all: one look, for the estimates, and nobody is dropped.
    assert first["dropped"] == []
    assert set(first["carried_out"]) == {"96", "32", "unit", "tuned"}
    published, look = first["rounds"]
    assert {c["score"] for c in published["candidates"]} == {74.83}
    assert look["name"] == "1: 250 images"
    scores = {c["name"]: c["score"] for c in look["candidates"]}
    assert scores["96"] == scores["tuned"] > scores["32"] > scores["unit"] > 0.1
    seconds = {c["name"]: c["seconds"] for c in look["candidates"]}
    assert min(seconds["96"], seconds["tuned"]) == 0  # they share their features
    failed = json.loads(everything.out)["failed"]
    assert [failure["name"] for failure in failed] == ["fails"]
    assert first["spent_s"] == pytest.approx(
        sum(seconds.values()) + sum(first["carried_out"].values())
    )

    # Not all fits now. What was measured stands, so the command decides alike wherever it is.
    estimates = first["estimates"]
    took = first["carried_out"]
    two = sum(min(took[name], estimates[name]) for name in ("96", "tuned"))
    budget = sum(seconds.values()) + 1.01 * two
    outcome = headstart(*command, f"{budget:.3f}s")
    assert outcome.code == 0, outcome.err
    assert "a linear probe is right" not in outcome.err  # nothing is computed again
    second = json.loads(outcome.out)["selection"]
    dropped = {d["name"]: d["why"] for d in second["dropped"]}
    # There is no room for these two, neither by the estimates nor by what runs took.
    assert dropped.keys() in ({"32", "unit"}, {"32", "unit", "tuned"})
    form = r"[0-9.]+ % against [0-9.]+ % of .* on the same 250 images \(p < 0.001, one-sided\)"
    assert re.fullmatch(form.replace(" %", "%"), dropped["unit"])
    assert "96" in second["carried_out"]  # as good as its twin, and cheaper
    assert second["carried_out"].keys() == estimates.keys() - dropped.keys()
    assert second["spent_s"] <= budget or len(second["carried_out"]) <= 2
    assert second["baseline"]["order"][0] == second["baseline"]["pick"]

    # All runs are finished here, so the choice can be judged.
    runs = {name: open_run(tmp_path / "out" / name) for name in first["carried_out"]}
    full = max(runs.values(), key=lambda r: (r.metrics.val.accuracy, -r.metrics.val.loss))
    chosen = runs[json.loads(outcome.out)["best"]]
    difference = full.metrics.test.accuracy - chosen.metrics.test.accuracy
    assert second["regret"]["value"] == pytest.approx(difference)
    low, high = second["regret"]["interval"]
    assert low <= difference <= high
    kept = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert kept["selection"] == second
    table = headstart(*(part for part in command if part != "--json"), f"{budget:.3f}s").out
    assert "dropped: unit (1: 250 images): " in table
    assert f"regret: {second['regret']['text']}" in table


def test_an_interrupted_selection_goes_on(study: Path, cache: Path, tmp_path: Path) -> None:
    loaded = load_study(study)
    with pytest.raises(KeyboardInterrupt):
        library.compare(loaded, out=tmp_path, budget_s=1e4, reporter=Listener("unit: a look"))
    again = Listener("96")  # after the rounds that are left
    with pytest.raises(KeyboardInterrupt):
        library.compare(loaded, out=tmp_path, budget_s=1e4, reporter=again)
    assert again.looks == [("unit", 250)]  # the one of 32 pixels is known


def test_too_little_time_says_what_would_be_enough(
    study: Path, cache: Path, tmp_path: Path, headstart: Callable[..., Outcome]
) -> None:
    outcome = headstart("compare", study, "--out", tmp_path / "out", "--budget", "0.1s")
    assert outcome.code == 2
    last = outcome.err.splitlines()[-1]
    assert re.search(r"error: --budget 0s is too small for one full run: about \d+m?s? ", last)
    assert not (tmp_path / "out" / "32").exists()


def test_finished_runs_take_no_budget(tmp_path: Path, headstart: Callable[..., Outcome]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    outcome = headstart("compare", tmp_path / "run", "--budget", "10m")
    assert outcome.code == 2
    assert "these runs exist: give their study" in outcome.err


class Closed:
    """Images that must not be looked at."""

    side = 32
    slow_to_read = False

    def read(self, rows: np.ndarray) -> np.ndarray:
        pytest.fail("validation or test was opened")

    def digests(self, rows: np.ndarray) -> list[bytes]:
        return [b""] * len(rows)


def test_evidence_looks_at_train_alone_and_at_no_image_twice(
    study: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(spec: DataSpec, **options: Any) -> Splits:
        splits = load_data(spec, **options)
        hidden = {s: replace(getattr(splits, s), store=Closed()) for s in ("val", "test")}
        return replace(splits, **hidden)

    monkeypatch.setattr(evidence, "load_data", closed)
    recipe = load_study(study).recipes()[1]
    listener = Listener()
    source = EvidenceSource(recipe, "cpu", None, listener)
    candidate = source.prepare(recipe)
    assert source.levels() == [25, 50, 54]  # 540 training images of ten classes
    few, more = source(candidate, 25), source(candidate, 50)
    assert listener.looks == [("32", 250), ("32", 250)]
    assert (few.images, more.images) == (250, 500)
    assert 0.2 < few.accuracy < 0.8
    # Remembered: the same answer, and no pass. Its seconds lost, the pass is timed again.
    assert np.array_equal(source(candidate, 25).hits, few.hits)
    assert len(listener.looks) == 2
    for entry in (cache / "evidence").iterdir():
        entry.unlink()
    timed = source(candidate, 25)
    assert np.array_equal(timed.hits, few.hits)
    assert timed.images_per_s > 0
    assert len(listener.looks) == 2


def test_a_run_is_estimated_by_what_its_phases_compute(study: Path, cache: Path) -> None:
    runtime, few = create_runtime("cpu"), load_study(study).recipes()[:4]
    plans = {recipe.name: make_plan(recipe, runtime, Reporter()) for recipe in few}
    head = workload(plans["96"])
    assert (head.passes, head.steps, head.solved) == (700, 0, FOLDS * 540)
    tuned = workload(plans["tuned"])
    # The second phase computes the stages below the last for all images, and trains the last.
    frozen = tuned.passes - 600
    trained = 540 * TRAINED + (60 + 100) * TORCH
    share = (frozen - trained) / (700 - trained)
    assert 0.5 < share < 1
    assert tuned.steps == 5


def test_check_of_a_study_is_short_and_estimates(
    study: Path,
    cache: Path,
    headstart: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line a run, phases folded; what two runs share in the cache is counted once."""
    text = STUDY[: STUDY.rindex("[[variants]]")]  # all but the run that fails
    study.write_text(text)
    short = headstart("check", study)
    assert short.code == 0, short.err
    lines = short.out.splitlines()
    assert len(lines) < 12
    assert lines[0] == "cifar10-mini: 10 classes; images: train 540, val 60, test 100"
    (tuned,) = (line for line in lines if line.startswith("tuned"))
    assert "head solved, then last_stage 1 epochs" in tuned
    assert re.search(
        r"^in all about \S+, \d+ MB of runs and \d+ MB of cache: an estimate", short.out, re.M
    )
    detailed = headstart("check", study, "--details")
    assert detailed.out.count("phase 1: head") == 4
    # At a given speed: a busy machine may measure one size slower than a larger one.
    monkeypatch.setattr(
        previewing, "measure_speed", lambda plan: Speed(0.5, 100 * (96 / plan.size) ** 2)
    )
    previews = library.preview_all(load_study(study).recipes(), reporter=Reporter())
    by_name = {each.recipe.name: each.estimate for each in previews}
    assert by_name["tuned"].seconds > by_name["96"].seconds > by_name["32"].seconds > 0
    shared = by_name["tuned"].entries.keys() & by_name["96"].entries.keys()
    assert len(shared) == 1
    whole = total([by_name["tuned"], by_name["96"]])
    assert whole.cache_bytes == by_name["tuned"].cache_bytes
    weights = library.run(previews[0].recipe, out=tmp_path / "run").path / "checkpoints"
    size = (weights / "best.safetensors").stat().st_size
    assert previews[0].estimate.run_bytes == pytest.approx(size + 2e6, rel=0.05)
    assert library.open_run(tmp_path / "run").cost.wall_s > 0
