"""A run killed at random moments ends with the same weights, bit for bit."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from headstart import workbench
from headstart.recipe import load_recipe
from headstart.rundir import open_run
from headstart.training import loop, phases

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

# How many runs of each kind are killed, three times each.
KILLED_RUNS = int(os.environ.get("HEADSTART_KILLED_RUNS", "1"))

# Every process is forked from one that has torch loaded and has not yet used it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["headstart.workbench", "timm", "headstart.training.cache"])


def train(recipe: Path, out: Path, saved: Connection) -> None:
    """A run that checkpoints after every step, so that most kills fall within an epoch."""
    loop.CHECKPOINT_S = 0.0
    save = phases.save_checkpoint

    def saving(*arguments: Any) -> None:
        save(*arguments)
        saved.send(None)

    phases.save_checkpoint = saving  # type: ignore[assignment]
    workbench.run(load_recipe(recipe), out=out)
    saved.close()


def run_until(recipe: Path, out: Path, saves: int | None = None) -> int:
    """Run, and kill after a number of checkpoints if that many come; returns how many came."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=train, args=(recipe, out, sender))
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
    assert process.exitcode in ((0,) if saves is None else (0, -signal.SIGKILL))
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
    expected = load_file(tmp_path / "whole" / "checkpoints" / "best.safetensors")
    for number in range(KILLED_RUNS):
        draw = random.Random(number)
        out = tmp_path / f"killed-{number}"
        for _ in range(3):
            run_until(recipe, out, draw.randint(1, saves // 2))
        run_until(recipe, out)
        assert open_run(out).finished
        found = load_file(out / "checkpoints" / "best.safetensors")
        assert found.keys() == expected.keys()
        different = [n for n in expected if expected[n].tobytes() != found[n].tobytes()]
        assert different == []
