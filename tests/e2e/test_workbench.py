"""Runs one after the other, in one process, as a study has them."""

from __future__ import annotations

import contextlib
import fcntl
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.colors  # noqa: F401 - its first import leaves a cycle that holds its importers
import numpy as np
import pytest
import torch
from PIL import Image

import headstart as library
from headstart.errors import RunError
from headstart.features.cache import BoundaryCache
from headstart.features.feeds import PixelFeed, draw_views
from headstart.features.room import clear_cache
from headstart.files import LOCK
from headstart.machine.progress import Reporter
from headstart.specs import BackboneSpec
from headstart.training import fitting, solving
from headstart.training.loop import FitInputs, FitState
from headstart.training.phase_feeds import PhaseFeeds
from tests.recipes import log_of, recipe_text, write_recipe

PLAIN = ("data.augment.flip=false", "data.augment.shift=0.0", "data.train_limit=400")
AUGMENTED = {"flip": True, "shift": 0.1}
Make = Callable[..., library.Recipe]
pytestmark = pytest.mark.usefixtures("cache")


def small_recipe(backbone: BackboneSpec, **tables: Any) -> str:
    data = {"augment": AUGMENTED, **tables.pop("data", {})}
    return recipe_text("small", {"train": "head"}, backbone=backbone, data=data, **tables)


@pytest.fixture
def recipe(tmp_path: Path, small_backbone: BackboneSpec) -> Make:
    """A recipe for a small network, with overrides."""
    path = write_recipe(tmp_path, small_recipe(small_backbone, test=20))
    return lambda *overrides: library.load_recipe(path, overrides)


@pytest.fixture
def fetched(real_weights: str) -> tuple[str, ...]:
    """Overrides for what random features are too poor to show."""
    return (f"backbone.name={real_weights}", "backbone.weights=registry")


@pytest.fixture(scope="module")
def probe(
    real_weights: str, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> library.Run:
    """A finished run of a solved head on real weights."""
    folder = tmp_path_factory.mktemp("probe")
    text = small_recipe(BackboneSpec(name=real_weights, weights="registry"), test=20)
    recipe = library.load_recipe(write_recipe(folder, text), PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shared_cache))
        return library.run(recipe, out=folder / "run")


class Listener(Reporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, line: str) -> None:
        self.warnings.append(line)


def feeds() -> list[PhaseFeeds]:
    return [held for held in gc.get_objects() if type(held) is PhaseFeeds]


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_run_held_is_let_go_of_with_it(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The next run of a study must find the memory free, and not wait for a collector."""
    if fails:
        monkeypatch.setattr(solving, "solve_path", out_of_memory)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(RunError):
            library.run(recipe(), out=tmp_path / "run")
        assert feeds() == []
    finally:
        gc.enable()


def out_of_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_full_device_is_reported_and_the_run_goes_on_later(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(BoundaryCache, "rows", out_of_memory)
        with pytest.raises(RunError, match=r"memory is full: lower data\.size"):
            library.run(recipe(), out=tmp_path / "run")
    assert library.run(recipe(), out=tmp_path / "run").finished


def test_where_nothing_is_cached_every_epoch_has_views_of_its_own(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each: list[FitInputs] = []

    def noted(model: Any, inputs: FitInputs, *rest: Any, **options: Any) -> FitState:
        each.append(inputs)
        return original(model, inputs, *rest, **options)

    original = fitting.fit
    monkeypatch.setattr(fitting, "fit", noted)
    for part in ("from:conv_stem", "from:blocks.4"):
        given = ("phases.0.epochs=1", f"phases.0.train={part}")
        library.run(recipe(*given), out=tmp_path / part.replace(":", "-"))
    whole, upper = (inputs.train for inputs in each)
    assert isinstance(whole, PixelFeed)
    assert not isinstance(upper, PixelFeed)
    views = [int(draw_views(whole.keys[:1], whole.views, 0, epoch)[0]) for epoch in range(9)]
    assert len(set(views)) == 9


def test_what_is_tested_and_served_is_the_best_phase_and_not_the_last(
    fetched: tuple[str, ...], recipe: Make, tmp_path: Path, probe: library.Run
) -> None:
    listener = Listener()
    tuned = 'phases=[{train="head"}, {train="from:blocks.6", epochs=1, lr=30.0}]'
    given = recipe(*PLAIN, *fetched, tuned)
    harsh = library.run(given, out=tmp_path / "harsh", reporter=listener)
    (line,) = [line for line in listener.warnings if "lower phases.1.lr" in line]
    assert line.startswith("phase 2 did not improve validation")
    assert line in harsh.warnings
    assert [e["improved"] for e in log_of(harsh) if e["event"] == "phase_done"] == [True, False]
    assert len([e for e in log_of(harsh) if e["event"] == "restart"]) == 3
    assert np.array_equal(harsh.predictions("val").ids, probe.predictions("val").ids)
    for split in ("val", "test"):
        ours, theirs = harsh.predictions(split), probe.predictions(split)
        assert ours.logits == pytest.approx(theirs.logits, abs=0.02)  # cached in float16


def test_every_phase_that_trains_the_backbone_starts_from_a_flatter_head(
    recipe: Make, tmp_path: Path
) -> None:
    """Also after a phase without an improvement: the model is that of the head again."""
    tuned = (
        'phases=[{train="head"}, {train="from:blocks.4", epochs=1, lr=30.0}, '
        '{train="from:blocks.4", epochs=1, lr=1e-4}]'
    )
    run = library.run(recipe(*PLAIN, tuned), out=tmp_path / "run")
    done = [e for e in log_of(run) if e["event"] == "phase_done"]
    assert [e["improved"] for e in done[:2]] == [True, False]
    starts = [e for e in log_of(run) if e["event"] == "start"]
    assert [e["phase"] for e in starts] == [1, 2]
    assert starts[0]["l2"] == starts[1]["l2"] > done[0]["l2"]


def test_a_solved_head_is_fitted_to_validation_too_and_judged_out_of_fold(
    probe: library.Run,
) -> None:
    """Validation of forty images decides little: all four hundred do, each held out once."""
    predictions = probe.predictions("val")
    assert len(predictions) == len(set(predictions.ids.tolist())) == probe.metrics.val.n == 400
    (event,) = [e for e in log_of(probe) if e["event"] == "refit"]
    assert event["images"] == 400
    assert 0.3 < predictions.correct.mean() < 0.99  # fitted to, all would be right


def test_a_validation_split_that_a_folder_brings_is_not_mixed_with_train(
    small_backbone: BackboneSpec, tmp_path: Path
) -> None:
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
    path = write_recipe(tmp_path, small_recipe(small_backbone, train=None, test=None))
    run = library.run(library.load_recipe(path, overrides), out=tmp_path / "run")
    assert len(run.predictions("val")) == 15
    assert all(name.startswith("val") for name in run.predictions("val").ids.tolist())


def test_a_study_that_another_process_carries_out_is_left_alone(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, recipe_text(grid={"data.size": [32, 48]}))
    study, out = library.load_study(path), tmp_path / "out"
    out.mkdir()
    with (out / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # of an open file: this process is another, too
        with pytest.raises(RunError, match=f"{out}: another process is at work on this"):
            library.compare(study, out=out)
    assert [path.name for path in out.iterdir()] == [LOCK]


def test_the_predictor_takes_opened_images_and_single_paths(recipe: Make, tmp_path: Path) -> None:
    predictor = library.load_predictor(library.run(recipe(), out=tmp_path / "run"))
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


def test_a_cache_that_is_cleared_all_the_time_costs_a_run_nothing(
    tmp_path: Path, small_backbone: BackboneSpec
) -> None:
    class Clearing(library.Reporter):
        def say(self, line: str) -> None:
            clear_cache()

        warn = say

        @contextlib.contextmanager
        def track(self, label: str, total: int | None, unit: str) -> Iterator[Any]:
            clear_cache()
            yield lambda done: clear_cache()

    phases = {"train": "head"}, {"train": "last_stage", "epochs": 1}
    text = recipe_text("tiny", *phases, backbone=small_backbone)
    recipe = library.load_recipe(write_recipe(tmp_path, text))
    quiet = library.run(recipe, out=tmp_path / "quiet")
    again = library.run(recipe, out=tmp_path / "run", reporter=Clearing())
    assert np.array_equal(quiet.predictions("test").logits, again.predictions("test").logits)
