"""Full fine-tuning of one network by Headstart and by other tools, for bench/gpu.py."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_settings import Setting
from harness import peer_python, ratio, run_peer, spread

import headstart
from headstart.data import load_data
from headstart.models import classifier
from headstart.models.anatomy import examine
from headstart.models.backbones import build_architecture, create_backbone
from headstart.recipe import Recipe

PEERS = {"torch": "torch_full.py", "trainer": "trainer_full.py"}
COMPILED = ", compiled"
RATE = 1e-3
LOADERS = 8  # worker processes of the peer that has some


@dataclass(frozen=True)
class Tuned:
    """One tool's run: seconds of each epoch after the first, of `images`, and test accuracy."""

    epoch_s: list[float]
    images: int
    accuracy: float

    @property
    def rate(self) -> float:
        return self.images / statistics.median(self.epoch_s)


def tuning(setting: Setting, folder: Path, repeats: int, ceiling: float) -> None:
    """Images a second of each tool at each size, their share of the ceiling, and accuracies."""
    amount = setting.amount
    tools = ["headstart"]
    try:
        peer_python("torch")
        tools += list(PEERS)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"\npeers left out: their environment cannot be installed ({error})")
    if setting.device == "cuda":
        tools += [f"{tool}{COMPILED}" for tool in tools]
    tuned: dict[tuple[str, int], list[Tuned]] = defaultdict(list)
    for repeat in range(repeats):
        for size in amount.tuned_sizes:
            for tool in tools:
                here = folder / f"tuning-{size}-{repeat}" / tool
                tuned[tool, size].append(tune(setting, tool, size, here, folder / f"job-{size}"))
    start = "random" if amount.tuned in setting.random else "pretrained"
    print(
        f"\ntuning: every layer of {amount.tuned} ({start} weights), {amount.images:,} images of "
        f"{setting.source}, batches of {amount.batch}"
    )
    for size in amount.tuned_sizes:
        operations = 6 * macs(amount.tuned, size)
        print(f"\n{f'{size} pixels':<24}{'images/s':>26}{'of the ceiling':>16}", end="")
        print(f"{'seconds, times ours':>30}{'accuracy, %':>14}")
        ours = [statistics.median(t.epoch_s) for t in tuned["headstart", size]]
        for tool in tools:
            runs = tuned[tool, size]
            rates = [run.rate for run in runs]
            share = statistics.median(rates) * operations / ceiling
            times = ratio([statistics.median(t.epoch_s) for t in runs], ours)
            print(f"{tool:<24}{spread(rates, 0):>26}{share:>16.1%}{times:>30}", end="")
            print(f"{100 * runs[0].accuracy:>14.1f}")


def tune(setting: Setting, tool: str, size: int, folder: Path, job: Path) -> Tuned:
    name, compiled = tool.removesuffix(COMPILED), tool.endswith(COMPILED)
    if name == "headstart":
        return tune_here(setting, size, folder, compiled=compiled)
    write_job(setting, size, job, compiled=compiled)
    answer = run_peer("torch", PEERS[name], job, cuda=setting.device == "cuda")
    return Tuned(answer["epoch_s"][1:], answer["images"], answer["accuracy"])


def tune_here(setting: Setting, size: int, folder: Path, *, compiled: bool) -> Tuned:
    os.environ["HEADSTART_CACHE"] = str(folder / "cache")
    usual = classifier.COMPILE_STEPS
    # Only which side of the threshold a short run is on: what it then does is what a long one does.
    classifier.COMPILE_STEPS = 0 if compiled else sys.maxsize
    try:
        run = headstart.run(tuned_recipe(setting, size), out=folder / "run", device=setting.device)
    finally:
        classifier.COMPILE_STEPS = usual
    seconds = [epoch.seconds for epoch in run.history.epochs]
    accuracy = float(run.predictions("test").correct.mean())
    return Tuned(seconds[1:], run.provenance.data.counts.train, accuracy)


def tuned_recipe(setting: Setting, size: int) -> Recipe:
    amount = setting.amount
    settings = (
        f"name={amount.tuned}-{size}",
        f"data.source={setting.source}",
        f"data.size={size}",
        f"data.train_limit={amount.images}",
        f"data.test_limit={amount.tested}",
        "data.val_fraction=0.02",
        "data.augment={flip=true, shift=0.1}",
        f"backbone.name={amount.tuned}",
        f"backbone.weights={setting.weights[amount.tuned]}",
        f"batch_size={amount.batch}",
        f'phases=[{{train="all", norm="train", optimizer="adamw", epochs={amount.epochs}, '
        f'lr={RATE}, schedule="constant"}}]',
    )
    return headstart.load_recipe("cifar10-finetune", settings)


def write_job(setting: Setting, size: int, folder: Path, *, compiled: bool) -> None:
    """What a peer is given: images, the weights by timm's names, and the settings."""
    recipe = tuned_recipe(setting, size)
    splits = load_data(recipe.data)
    backbone = create_backbone(recipe.backbone, size=size)
    if not folder.exists():
        folder.mkdir(parents=True)
        np.savez(
            folder / "data.npz",
            train_images=splits.train.read(np.arange(len(splits.train))),
            train_labels=splits.train.labels,
            test_images=splits.test.read(np.arange(len(splits.test))),
            test_labels=splits.test.labels,
        )
        state = {name: tensor.numpy() for name, tensor in backbone.model.state_dict().items()}
        np.savez(folder / "weights.npz", **state)
    job: dict[str, Any] = {
        "backbone": backbone.name,
        "size": size,
        "mean": backbone.preprocess.mean,
        "std": backbone.preprocess.std,
        "classes": len(splits.class_names),
        "batch": recipe.batch_size,
        "epochs": setting.amount.epochs,
        "lr": RATE,
        "weight_decay": 0.01,
        "seed": recipe.seed,
        "device": setting.device,
        "compile": compiled,
        "workers": LOADERS if setting.device == "cuda" else 0,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def macs(name: str, size: int) -> int:
    """Multiply-accumulates of a forward pass over one image."""
    with torch.device("meta"):
        return examine(build_architecture(name, size=size), size).macs
