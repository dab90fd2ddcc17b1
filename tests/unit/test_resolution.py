"""Resolution: every default written down, and nothing ignored without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from headstart.errors import RecipeError
from headstart.models.backbones import build_architecture
from headstart.plan.resolution import resolve
from headstart.recipe import Recipe


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(build_architecture("small_cnn").state_dict(), path)
    return path


def make(backbone: str = "small_cnn", **changes: Any) -> Recipe:
    """A recipe from scratch, so that no weights are needed; dotted keys with __ for dots."""
    raw: dict[str, Any] = {
        "name": "r",
        "data": {"source": "cifar10-mini"},
        "backbone": {"name": backbone, "weights": "random"},
        "phases": [{"train": "from_scratch"}, {"train": "head"}],
    }
    for key, value in changes.items():
        table, _, field = key.partition("__")
        if field:
            raw.setdefault(table, {})[field] = value
        else:
            raw[table] = value
    return Recipe.model_validate(raw)


def fitted(**settings: Any) -> dict[str, Any]:
    return {"phases": [{"train": "from_scratch", **settings}]}


def solved(**settings: Any) -> dict[str, Any]:
    return {"phases": [{"train": "from_scratch"}, {"train": "head", **settings}]}


def test_defaults_are_written_down_and_reproduce() -> None:
    recipe = make(phases=[{"train": "from_scratch"}, {"train": "convs"}, {"train": "head"}])
    resolved, _ = resolve(recipe)
    scratch, convs, head = resolved.phases
    assert (scratch.optimizer, scratch.epochs, scratch.lr) == ("adamw", 10, 1e-3)
    assert (scratch.norm, scratch.weight_decay, scratch.views) == ("train", 0.01, 0)
    assert convs.norm == "frozen"
    assert (head.optimizer, head.epochs, head.views) == ("lbfgs", None, 1)
    assert resolve(resolved)[0] == resolved
    sgd, _ = resolve(make(**fitted(optimizer="sgd")))
    assert (sgd.phases[0].lr, sgd.phases[0].weight_decay) == (1e-2, 5e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"phases": [{"train": "all"}]}, 'use train = "from_scratch"'),
        (fitted(views=2), "has nothing to cache"),
        (solved(views=2), "needs something to vary"),
        (solved(norm="train", epochs=1), "keeps batch norm frozen"),
        (solved(optimizer="lbfgs", epochs=2, ema=0.9), "takes no epochs and no ema"),
        (solved(schedule="constant"), "set epochs or lr to train it instead"),
        (solved(optimizer="lbfgs", plateau_factor=0.5), "takes no plateau_factor"),
        (solved(epochs=1, layer_decay=0.5), "trains no stage"),
        (fitted(momentum=0.5), 'momentum belongs to optimizer = "sgd"'),
        (fitted(plateau_patience=5), 'plateau_patience belongs to schedule = "plateau"'),
        ({"head__batch_norm": True}, "set head.hidden"),
        ({"batch_size": 1}, "raise batch_size"),
    ],
)
def test_contradictions_are_reported(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=r"phases|head|batch") as error:
        resolve(make(**changes))
    assert says in str(error.value)


def test_mixing_needs_a_phase_that_is_fitted(weights_file: Path) -> None:
    mixed = {"source": "cifar10-mini", "augment": {"cutmix": 0.5}}
    resolve(make(data=mixed))
    pretrained = make(data=mixed, phases=[{"train": "head"}])
    backbone = pretrained.backbone.model_copy(update={"weights": f"file:{weights_file}"})
    with pytest.raises(RecipeError, match="mixup and cutmix need a phase that is trained"):
        resolve(pretrained.model_copy(update={"backbone": backbone}))


def test_from_scratch_refuses_pretrained_weights(weights_file: Path) -> None:
    with pytest.raises(RecipeError, match="begins with random weights"):
        resolve(make(backbone__weights=f"file:{weights_file}"))


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({}, "accuracy"),
        ({"balance": "auto"}, "balanced_accuracy"),
        ({"balance": "auto", "select_by": "accuracy"}, "accuracy"),
        ({"select_by": "loss"}, "loss"),
    ],
)
def test_what_validation_chooses_by_follows_the_balance(
    changes: dict[str, str], metric: str
) -> None:
    assert resolve(make(**changes))[0].select_by == metric
