"""A run killed at random moments ends with the same weights, bit for bit."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest
from safetensors.numpy import load_file

from headstart import workbench
from headstart.assessment import assess as results
from headstart.features import cache, room
from headstart.recipe import load_recipe
from headstart.rundir.run import open_run
from headstart.specs import BackboneSpec
from headstart.training import fitting, loop, trainer
from tests.recipes import FROM_SCRATCH, Table, recipe_text, write_recipe

AUGMENT = {"flip": True, "shift": 0.1, "mixup": 0.3, "cutmix": 0.3, "erasing": 0.3}
SCRATCH: tuple[Table, ...] = (
    {
        "train": "from_scratch",
        "epochs": 4,
        "ema": 0.9,
        "schedule": "plateau",
        "plateau_patience": 1,
    },
    {"train": "last_stage", "optimizer": "sgd", "epochs": 3, "norm": "train"},
)
FINETUNED: tuple[Table, ...] = (
    {"train": "head", "epochs": 4, "lr": 1e-3},
    {"train": "last_layers:6", "epochs": 4, "schedule": "one_cycle"},
)


def text_of(backbone: BackboneSpec, phases: tuple[Table, ...]) -> str:
    return recipe_text(
        "killed",
        *phases,
        backbone=backbone,
        train=120,
        test=20,
        more="batch_size = 16",
        data={"augment": AUGMENT},
        head={"hidden": [16], "dropout": 0.3},
    )


EPOCHS, STEPS = 4, 7  # of the first phase from scratch: 108 images in batches of 16

# How many runs of each kind are killed, three times each.
KILLED_RUNS = int(os.environ.get("HEADSTART_KILLED_RUNS", "1"))

# Every process is forked from one that has torch loaded and has not yet used it.
CONTEXT = multiprocessing.get_context("forkserver")
LOADED = ("headstart.workbench", "headstart.features.cache", "timm", "openvino", "torch._dynamo")
LATER = ("torchcam.methods", "matplotlib.figure", "sklearn.decomposition")  # as a run ends
CONTEXT.set_forkserver_preload([*LOADED, *LATER])


def train(
    recipe: Path, out: Path, saved: Connection, moment: str | None, environment: dict[str, str]
) -> None:
    """A run that checkpoints after every step, so that most kills fall within an epoch.

    With a `moment`, it kills itself there.
    """
    os.environ.update(environment)  # the server's is that of the first test
    loop.CHECKPOINT_S = 0.0
    save = trainer.save_checkpoint
    saves = 0

    def saving(*arguments: Any) -> None:
        nonlocal saves
        save(*arguments)
        saves += 1
        saved.send(None)
        if moment == "last epoch" and saves == EPOCHS * STEPS:
            die()

    trainer.save_checkpoint = fitting.save_checkpoint = saving  # type: ignore[assignment]
    if moment == "extraction":
        cache.BoundaryCache._pack = die  # type: ignore[method-assign]
    if moment == "finish":
        results.write_tensors = die
    workbench.run(load_recipe(recipe), out=out)
    saved.close()


def die(*arguments: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def run_until(recipe: Path, out: Path, saves: int | None = None, moment: str | None = None) -> int:
    """Run, and kill after a number of checkpoints if that many come; returns how many came."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=train, args=(recipe, out, sender, moment, {**os.environ}))
    process.start()
    sender.close()
    seen = 0
    with receiver, contextlib.suppress(EOFError):
        while saves is None or seen < saves:
            receiver.recv()
            seen += 1
    if saves is not None:
        process.kill()  # SIGKILL: nothing is flushed, nothing is said
    process.join()
    killed = -signal.SIGKILL
    expected = (killed,) if moment else (0,) if saves is None else (0, killed)
    assert process.exitcode in expected
    return seen


# Of fetched weights in the longer trial alone: they are loaded as those of a file are.
KINDS = ["from scratch", "fine-tuned", "fine-tuned from fetched weights"]


@pytest.fixture(params=KINDS if KILLED_RUNS > 1 else KINDS[:2])
def recipe(request: pytest.FixtureRequest, tmp_path: Path, small_backbone: BackboneSpec) -> Path:
    if request.param == "from scratch":
        return write_recipe(tmp_path, text_of(FROM_SCRATCH, SCRATCH))
    if request.param == "fine-tuned":
        return write_recipe(tmp_path, text_of(small_backbone, FINETUNED))
    fetched = BackboneSpec(name=request.getfixturevalue("real_weights"), weights="registry")
    return write_recipe(tmp_path, text_of(fetched, FINETUNED))


@pytest.mark.usefixtures("cache")
def test_a_killed_run_ends_bit_for_bit_as_an_uninterrupted_one(
    recipe: Path, tmp_path: Path
) -> None:
    saves = run_until(recipe, tmp_path / "whole")
    for number in range(KILLED_RUNS):
        draw = random.Random(number)
        out = tmp_path / f"killed-{number}"
        for _ in range(3):
            run_until(recipe, out, draw.randint(1, saves // 2))
        run_until(recipe, out)
        assert_same_weights(out, tmp_path / "whole")


@pytest.mark.usefixtures("cache")
def test_kills_at_the_worst_moments(tmp_path: Path) -> None:
    """After the last epoch but before its phase is closed; in a frozen pass; while it finishes."""
    recipe = write_recipe(tmp_path, text_of(FROM_SCRATCH, SCRATCH))
    first, second = tmp_path / "first", tmp_path / "second"
    # The next kill would hide what the first one did: each of these two goes on to its end.
    assert run_until(recipe, first, moment="last epoch") == EPOCHS * STEPS
    run_until(recipe, first)
    room.clear_cache()  # a poisoned entry would serve the other runs as well
    run_until(recipe, second, moment="extraction")
    run_until(recipe, second, moment="finish")
    run_until(recipe, second)
    assert not list(second.rglob(".*.partial"))
    room.clear_cache()
    run_until(recipe, tmp_path / "whole")
    for killed in (first, second):
        assert_same_weights(killed, tmp_path / "whole")


def assert_same_weights(one: Path, other: Path) -> None:
    assert open_run(one).finished
    found, expected = (load_file(p / "checkpoints" / "best.safetensors") for p in (one, other))
    assert found.keys() == expected.keys()
    assert [n for n in expected if expected[n].tobytes() != found[n].tobytes()] == []
