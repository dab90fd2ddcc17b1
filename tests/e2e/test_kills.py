"""A run killed at random moments ends with the same weights, bit for bit."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from headstart.features import room
from headstart.rundir.run import open_run
from headstart.specs import BackboneSpec
from tests.conftest import link_weights
from tests.killed import run_until
from tests.recipes import FROM_SCRATCH, Table, recipe_text, write_recipe

AUGMENT = {"flip": True, "shift": 0.1, "mixup": 0.3, "cutmix": 0.3, "erasing": 0.3}
SCRATCH: tuple[Table, ...] = (
    {
        "train": "from_scratch",
        "epochs": 3,
        "ema": 0.9,
        "schedule": "plateau",
        "plateau_patience": 1,
    },
    {"train": "last_stage", "optimizer": "sgd", "epochs": 2, "norm": "train"},
)
FINETUNED: tuple[Table, ...] = (
    {"train": "head", "epochs": 2, "lr": 1e-3},
    {"train": "last_layers:6", "epochs": 3, "schedule": "one_cycle"},
)


def text_of(backbone: BackboneSpec, phases: tuple[Table, ...]) -> str:
    return recipe_text(
        "killed",
        *phases,
        backbone=backbone,
        train=60,
        test=20,
        more="batch_size = 16",
        data={"augment": AUGMENT},
        head={"hidden": [16], "dropout": 0.3},
    )


EPOCHS, STEPS = 3, 3  # of the first phase from scratch: 50 images in batches of 16

# How many runs of each kind are killed, twice each; in the longer trial three times.
KILLED_RUNS = int(os.environ.get("HEADSTART_KILLED_RUNS", "1"))
KILLS = 3 if KILLED_RUNS > 1 else 2

# Of fetched weights in the longer trial alone: they are loaded as those of a file are.
KINDS = ["from scratch", "fine-tuned", "fine-tuned from fetched weights"]


@pytest.fixture(params=KINDS if KILLED_RUNS > 1 else KINDS[:2])
def text(request: pytest.FixtureRequest, small_backbone: BackboneSpec) -> str:
    if request.param == "from scratch":
        return text_of(FROM_SCRATCH, SCRATCH)
    if request.param == "fine-tuned":
        return text_of(small_backbone, FINETUNED)
    fetched = BackboneSpec(name=request.getfixturevalue("real_weights"), weights="registry")
    return text_of(fetched, FINETUNED)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, weights_folder: Path
) -> Callable[[str], tuple[Path, int]]:
    """The run of a recipe that nothing interrupts, and its number of checkpoints; made once, with
    a cache of its own."""
    made: dict[str, tuple[Path, int]] = {}

    def run(text: str) -> tuple[Path, int]:
        if text not in made:
            folder = tmp_path_factory.mktemp("whole")
            with pytest.MonkeyPatch.context() as patch:
                own = link_weights(folder / "cache", weights_folder)
                patch.setenv("HEADSTART_CACHE", str(own))
                saves = run_until(write_recipe(folder, text), folder / "run")
            made[text] = folder / "run", saves
        return made[text]

    return run


@pytest.mark.usefixtures("cache")
def test_a_killed_run_ends_bit_for_bit_as_an_uninterrupted_one(
    text: str, tmp_path: Path, uninterrupted: Callable[[str], tuple[Path, int]]
) -> None:
    recipe = write_recipe(tmp_path, text)
    whole, saves = uninterrupted(text)
    for number in range(KILLED_RUNS):
        draw = random.Random(number)
        out = tmp_path / f"killed-{number}"
        for _ in range(KILLS):
            run_until(recipe, out, draw.randint(1, saves // 2))
        run_until(recipe, out)
        assert_same_weights(out, whole)


@pytest.mark.usefixtures("cache")
def test_kills_at_the_worst_moments(
    tmp_path: Path, uninterrupted: Callable[[str], tuple[Path, int]]
) -> None:
    """After the last epoch but before its phase is closed; in a frozen pass; while it finishes."""
    text = text_of(FROM_SCRATCH, SCRATCH)
    recipe, (whole, _) = write_recipe(tmp_path, text), uninterrupted(text)
    first, second = tmp_path / "first", tmp_path / "second"
    # The next kill would hide what the first one did: each of these two goes on to its end.
    last = EPOCHS * STEPS
    assert run_until(recipe, first, moment="last epoch", last=last) == last
    run_until(recipe, first)
    room.clear_cache()  # a poisoned entry would serve the other run as well
    run_until(recipe, second, moment="extraction")
    run_until(recipe, second, moment="finish")
    run_until(recipe, second)
    assert not list(second.rglob(".*.partial"))
    for killed in (first, second):
        assert_same_weights(killed, whole)


def assert_same_weights(one: Path, other: Path) -> None:
    assert open_run(one).finished
    found, expected = (load_file(p / "checkpoints" / "best.safetensors") for p in (one, other))
    assert found.keys() == expected.keys()
    assert [n for n in expected if expected[n].tobytes() != found[n].tobytes()] == []
