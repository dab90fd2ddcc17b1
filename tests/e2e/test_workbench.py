"""Runs one after the other, in one process, as a study has them."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
from pathlib import Path
from typing import Any

import matplotlib.colors  # noqa: F401 - its first import leaves a cycle that holds its importers
import numpy as np
import pytest
import torch
from PIL import Image

import headstart as library
from headstart.errors import RunError
from headstart.progress import Reporter
from headstart.training import phases, solving
from headstart.training.cache import BoundaryCache
from headstart.training.feeds import PixelFeed, draw_views
from headstart.training.loop import FitState, Job
from headstart.training.phases import Training

RECIPE = """\
name = "small"
[data]
source = "cifar10-mini"
train_limit = 100
test_limit = 20
size = 32
augment = { flip = true, shift = 0.1 }
[backbone]
name = "tf_efficientnet_lite0"
weights = "registry"
[[phases]]
train = "head"
"""
PLAIN = ("data.augment.flip=false", "data.augment.shift=0.0", "data.train_limit=400")
pytestmark = pytest.mark.usefixtures("real_weights", "cache")


class Listener(Reporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, line: str) -> None:
        self.warnings.append(line)


def recipe(folder: Path, *overrides: str) -> library.Recipe:
    (folder / "recipe.toml").write_text(RECIPE)
    return library.load_recipe(folder / "recipe.toml", overrides)


def trainings() -> list[Training]:
    return [held for held in gc.get_objects() if type(held) is Training]


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_run_held_is_let_go_of_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The next run of a study must find the memory free, and not wait for a collector."""
    if fails:
        monkeypatch.setattr(solving, "solve_path", out_of_memory)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(RunError):
            library.run(recipe(tmp_path), out=tmp_path / "run")
        assert trainings() == []
    finally:
        gc.enable()


def out_of_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_full_device_is_told_and_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(BoundaryCache, "rows", out_of_memory)
        with pytest.raises(RunError, match=r"memory is full: lower data\.size"):
            library.run(recipe(tmp_path), out=tmp_path / "run")
    assert library.run(recipe(tmp_path), out=tmp_path / "run").finished


def test_where_nothing_is_cached_every_epoch_has_views_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []

    def noted(model: Any, job: Job, *rest: Any, **options: Any) -> FitState:
        jobs.append(job)
        return phases_fit(model, job, *rest, **options)

    phases_fit = phases.fit
    monkeypatch.setattr(phases, "fit", noted)
    for part in ("from:conv_stem", "from:blocks.6"):
        given = ("phases.0.epochs=1", f"phases.0.train={part}")
        library.run(recipe(tmp_path, *given), out=tmp_path / part.replace(":", "-"))
    whole, upper = (job.train for job in jobs)
    assert isinstance(whole, PixelFeed)
    assert not isinstance(upper, PixelFeed)
    views = [int(draw_views(whole.keys[:1], whole.views, 0, epoch)[0]) for epoch in range(9)]
    assert len(set(views)) == 9


def test_what_is_tested_and_served_is_the_best_phase_and_not_the_last(tmp_path: Path) -> None:
    listener = Listener()
    tuned = 'phases=[{train="head"}, {train="from:blocks.6", epochs=1, lr=%s}]'
    given = recipe(tmp_path, *PLAIN, tuned % 30.0)
    harsh = library.run(given, out=tmp_path / "harsh", reporter=listener)
    (line,) = [line for line in listener.warnings if "lower phases.1.lr" in line]
    assert line.startswith("phase 2 did not improve validation")
    assert line in harsh.warnings
    assert [e["bettered"] for e in harsh.log if e["event"] == "phase_done"] == [True, False]
    assert len([e for e in harsh.log if e["event"] == "restart"]) == 3
    probe = library.run(recipe(tmp_path, *PLAIN), out=tmp_path / "probe")
    assert np.array_equal(harsh.predictions("val").ids, probe.predictions("val").ids)
    for split in ("val", "test"):
        ours, theirs = harsh.predictions(split), probe.predictions(split)
        assert ours.logits == pytest.approx(theirs.logits, abs=0.02)  # cached in float16


def test_every_phase_that_trains_the_backbone_starts_from_a_flatter_head(tmp_path: Path) -> None:
    """Also the one behind a phase that bettered nothing: the model is that of the head again."""
    tuned = (
        'phases=[{train="head"}, {train="from:blocks.6", epochs=1, lr=30.0}, '
        '{train="from:blocks.6", epochs=1, lr=1e-4}]'
    )
    run = library.run(recipe(tmp_path, *PLAIN, tuned), out=tmp_path / "run")
    done = [e for e in run.log if e["event"] == "phase_done"]
    assert [e["bettered"] for e in done[:2]] == [True, False]
    starts = [e for e in run.log if e["event"] == "start"]
    assert [e["phase"] for e in starts] == [1, 2]
    assert starts[0]["l2"] == starts[1]["l2"] > done[0]["l2"]


def test_a_solved_head_is_fitted_to_validation_too_and_judged_out_of_fold(tmp_path: Path) -> None:
    """Validation of forty images decides little: all four hundred do, each held out once."""
    run = library.run(recipe(tmp_path, *PLAIN), out=tmp_path / "run")
    told = run.predictions("val")
    assert len(told) == len(set(told.ids.tolist())) == run.metrics["val"]["n"] == 400
    (event,) = [e for e in run.log if e["event"] == "refit"]
    assert event["images"] == 400
    assert 0.3 < told.correct.mean() < 0.99  # fitted to, all would be right


def test_a_validation_split_that_a_folder_brings_is_not_mixed_with_train(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, n in (("train", 12), ("val", 5), ("test", 5)):
        for label in range(3):
            folder = tmp_path / "photos" / split / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(n):
                pixels = rng.integers(0, 120, (40, 40, 3), np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / f"{number}.png")
    free = ("data.augment.flip=false", "data.augment.shift=0.0", "phases.0.views=1")
    overrides = (f"data.source=folder:{tmp_path / 'photos'}", *free)
    raw = RECIPE.replace("train_limit = 100\ntest_limit = 20\n", "")
    (tmp_path / "own.toml").write_text(raw)
    given = library.load_recipe(tmp_path / "own.toml", overrides)
    run = library.run(given, out=tmp_path / "run")
    assert len(run.predictions("val")) == 15
    assert all(name.startswith("val") for name in run.predictions("val").ids.tolist())


def test_a_study_that_another_process_carries_out_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(RECIPE + '[grid]\n"data.size" = [32, 48]\n')
    study, out = library.load_study(path), tmp_path / "out"
    out.mkdir()
    folder = os.open(out, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        with pytest.raises(RunError, match=f"{out}: another process is at work on this"):
            library.compare(study, out=out)
    finally:
        os.close(folder)
    assert not list(out.iterdir())


def test_the_predictor_takes_opened_images_and_single_paths(tmp_path: Path) -> None:
    predictor = library.load_predictor(library.run(recipe(tmp_path), out=tmp_path / "run"))
    path = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    with Image.open(path) as opened:
        (by_file, by_image) = predictor.predict([path, opened])
    (unnamed,) = predictor.predict([Image.fromarray(pixels)])
    assert (by_file.image, by_image.image, unnamed.image) == (str(path), str(path), "0")
    assert by_file.probabilities == pytest.approx(by_image.probabilities, abs=1e-5)
    assert by_file.probabilities == pytest.approx(unnamed.probabilities, abs=1e-5)
    (alone,) = predictor.predict(str(path))
    assert (alone.image, alone.label) == (str(path), by_file.label)
