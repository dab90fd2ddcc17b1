"""What is handed over answers as it was tested, or the run does not end well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import headstart as library
from headstart.assessment import assess
from headstart.errors import RunError
from headstart.models.tensor_files import write_tensors
from headstart.recipe import load_recipe
from headstart.rundir.history import Served
from headstart.rundir.run import open_run
from headstart.specs import BackboneSpec
from tests.recipes import recipe_text, write_recipe

Tensors = Mapping[str, torch.Tensor]


@pytest.fixture
def recipe(tmp_path: Path, cache: Path, small_backbone: BackboneSpec) -> library.Recipe:
    text = recipe_text("tiny", {"train": "head"}, backbone=small_backbone, train=200, test=40)
    return load_recipe(write_recipe(tmp_path, text))


def test_the_saved_model_answers_as_it_was_tested(recipe: library.Recipe, tmp_path: Path) -> None:
    run = library.run(recipe, out=tmp_path / "run")
    (served,) = run.history.every(Served)
    assert (served.images, served.changed) == (32, 0)
    assert served.largest < 0.02


def other_head(state: Tensors) -> Tensors:
    return {**state, "head.0.weight": state["head.0.weight"].roll(1, dims=0)}


def not_a_number(state: Tensors) -> Tensors:
    wrong = state["head.0.weight"].clone()
    wrong[0, 0] = torch.nan
    return {**state, "head.0.weight": wrong}


@pytest.mark.parametrize(
    ("change", "line"),
    [(other_head, "not the model that was tested"), (not_a_number, "NaN or infinity")],
)
def test_another_model_than_the_tested_one_is_not_handed_over(
    change: Callable[[Tensors], Tensors],
    line: str,
    recipe: library.Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(path: Path, state: Tensors, header: Mapping[str, Any]) -> None:
        write_tensors(path, change(state), header)

    monkeypatch.setattr(assess, "write_tensors", write)
    with pytest.raises(RunError, match=line):
        library.run(recipe, out=tmp_path / "run")
    assert open_run(tmp_path / "run").status == "failed"
    monkeypatch.undo()
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    assert library.run(recipe, out=tmp_path / "run", measure=False).finished
