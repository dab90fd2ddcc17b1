"""Runs one after the other, in one process, as a study has them."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import matplotlib.colors  # noqa: F401 - its first import leaves a cycle that holds its importers
import pytest
import torch

import headstart as library
from headstart.errors import RunError
from headstart.training import phases
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
pytestmark = pytest.mark.usefixtures("real_weights", "cache")


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
        monkeypatch.setattr(phases, "solve_path", out_of_memory)
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
