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

from headstart import results, workbench
from headstart.recipe import load_recipe
from headstart.rundir import open_run
from headstart.training import cache, loop, phases

RECIPE = """
name = "killed"
batch_size = 16

[data]
source = "cifar10-mini"
train_limit = 200
test_limit = 20
size = 32
augment = { flip = true, shift = 0.1, mixup = 0.3, cutmix = 0.3, erasing = 0.3 }

[backbone]
name = "BACKBONE"
weights = "PROVIDER"

[head]
hidden = [16]
dropout = 0.3
"""
SCRATCH = """
[[phases]]
train = "from_scratch"
epochs = 4
ema = 0.9
schedule = "plateau"
plateau_patience = 1

[[phases]]
train = "last_stage"
optimizer = "sgd"
epochs = 3
norm = "train"
"""
FINETUNED = """
[[phases]]
train = "head"
epochs = 4
lr = 1e-3

[[phases]]
train = "last_layers:6"
epochs = 4
schedule = "one_cycle"
"""

EPOCHS, STEPS = 4, 12  # of the first phase from scratch: 180 images in batches of 16

# How many runs of each kind are killed, three times each.
KILLED_RUNS = int(os.environ.get("HEADSTART_KILLED_RUNS", "1"))

# Every process is forked from one that has torch loaded and has not yet used it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["headstart.workbench", "timm", "headstart.training.cache"])


def train(
    recipe: Path, out: Path, saved: Connection, moment: str | None, environment: dict[str, str]
) -> None:
    """A run that checkpoints after every step, so that most kills fall within an epoch.

    With a `moment`, it kills itself there.
    """
    os.environ.update(environment)  # the server's is that of the first test
    loop.CHECKPOINT_S = 0.0
    save = phases.save_checkpoint
    saves = 0

    def saving(*arguments: Any) -> None:
        nonlocal saves
        save(*arguments)
        saves += 1
        saved.send(None)
        if moment == "last epoch" and saves == EPOCHS * STEPS:
            die()

    phases.save_checkpoint = saving  # type: ignore[assignment]
    if moment == "extraction":
        cache.BoundaryCache._pack = die  # type: ignore[method-assign]
    if moment == "finish":
        results.save_file = die
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


@pytest.mark.parametrize("kind", ["from scratch", "fine-tuned"])
@pytest.mark.usefixtures("cache")
def test_a_killed_run_ends_bit_for_bit_as_an_uninterrupted_one(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "fine-tuned":
        backbone, provider, text = (
            request.getfixturevalue("real_weights"),
            "registry",
            RECIPE + FINETUNED,
        )
    else:
        backbone, provider, text = "small_cnn", "random", RECIPE + SCRATCH
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text.replace("BACKBONE", backbone).replace("PROVIDER", provider))
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
    recipe = tmp_path / "recipe.toml"
    text = RECIPE + SCRATCH
    recipe.write_text(text.replace("BACKBONE", "small_cnn").replace("PROVIDER", "random"))
    first, second = tmp_path / "first", tmp_path / "second"
    # The next kill would hide what the first one did: each of these two goes on to its end.
    assert run_until(recipe, first, moment="last epoch") == EPOCHS * STEPS
    run_until(recipe, first)
    cache.clear_cache()  # a poisoned entry would serve the other runs as well
    run_until(recipe, second, moment="extraction")
    run_until(recipe, second, moment="finish")
    run_until(recipe, second)
    assert not list(second.rglob(".*.partial"))
    cache.clear_cache()
    run_until(recipe, tmp_path / "whole")
    for killed in (first, second):
        assert_same_weights(killed, tmp_path / "whole")


def assert_same_weights(one: Path, other: Path) -> None:
    assert open_run(one).finished
    found, expected = (load_file(p / "checkpoints" / "best.safetensors") for p in (one, other))
    assert found.keys() == expected.keys()
    assert [n for n in expected if expected[n].tobytes() != found[n].tobytes()] == []
