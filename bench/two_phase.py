"""The two-phase workflow of transfer learning: Headstart beside the tools that people use for it.

    python bench/two_phase.py [--peers PEER ...] [--repeats N]

CIFAR-10 on CPU, one set of MobileNetV2 weights, 96 pixels, flip and shift, norms frozen, Adam:
first the head alone, then everything from `blocks.4.1` on.

Peers (keras, torch, trainer, fastai) keep the frozen backbone in the loop, as their guides have it,
for ten epochs and ten. Of each phase, one epoch on PEER_IMAGES images is timed after everything is
warm, and counted for ten epochs of IMAGES: the little that an epoch costs beside its images counts
more often than it would. Headstart solves the head on one cached view instead of ten epochs, then
trains ten epochs on four cached views; all of its time on IMAGES counts, compiling, frozen passes
and validation on a tenth of the images included. Alternating, N times; medians, and ratios with
their range.

Accuracies are of whole runs by every tool on the same SCORED images, less the tenth for validation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import machine_line, ratio, run_peer

import headstart
from headstart.data import fetch, load_data
from headstart.models.backbones import create_backbone
from headstart.recipe import Recipe

PEERS = {
    "keras": ("keras", "keras_two_phase.py"),
    "torch": ("torch", "torch_two_phase.py"),
    "trainer": ("torch", "trainer_two_phase.py"),
    "fastai": ("torch", "fastai_two_phase.py"),
}
IMAGES, PEER_IMAGES, SCORED, TESTED = 10_000, 2_000, 1_000, 2_000
EPOCHS = 10
RATES = {"frozen": 1e-3, "tuned": 1e-4}
PHASES = ("frozen", "tuned")
Seconds = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    data = fetch("cifar10")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADSTART_DATA"] = str(data.parent)
        folder = Path(scratch)
        timed: dict[str, list[Seconds]] = {name: [] for name in ("headstart", *options.peers)}
        for repeat in range(options.repeats):
            timed["headstart"].append(seconds_here(folder / f"timed-{repeat}"))
            for peer in options.peers:
                timed[peer].append(seconds_of(peer, folder / "timing"))
        print(machine_line(options.repeats))
        report(timed)
        print(
            f"\ntest accuracy, % of {TESTED:,}, after {EPOCHS} and {EPOCHS} epochs on {SCORED:,}:"
        )
        print(f"{'headstart':<12}" + accuracies_here(folder / "scored"))
        for peer in options.peers:
            print(f"{peer:<12}" + accuracies_of(peer, folder / "scoring"))


def recipe(images: int) -> Recipe:
    settings = (
        "data.source=cifar10",
        f"data.train_limit={images}",
        "data.augment.rotate=0",
        "data.augment.shift=0.1",
        'phases=[{train="head", views=1}, {train="from:blocks.4.1", optimizer="adam", '
        f'epochs={EPOCHS}, lr={RATES["tuned"]}, schedule="constant"}}]',
    )
    return headstart.load_recipe("s2", settings)


def seconds_here(folder: Path, images: int = IMAGES) -> Seconds:
    """Each phase of a run from an empty cache, everything it needs included."""
    os.environ["HEADSTART_CACHE"] = str(folder / "cache")
    run = headstart.run(recipe(images), out=folder / "run")
    found = dict.fromkeys(PHASES, 0.0)
    for event in run.log:
        if event["event"] in ("extract", "phase_done") and event.get("split") != "test":
            found[PHASES[event["phase"]]] += event["seconds"]
    return found


def seconds_of(peer: str, folder: Path) -> Seconds:
    """The median epoch after the first, for every epoch and image that Headstart's time covers."""
    answer = run_peer(*PEERS[peer], write_job(folder, PEER_IMAGES, epochs=2))
    scale = EPOCHS * IMAGES / PEER_IMAGES
    return {phase: scale * statistics.median(answer[phase]["epoch_s"][1:]) for phase in PHASES}


def accuracies_here(folder: Path) -> str:
    frozen = recipe(SCORED)
    frozen = frozen.model_copy(update={"phases": frozen.phases[:1]})
    found = []
    for name, wanted in (("frozen", frozen), ("tuned", recipe(SCORED))):
        run = headstart.run(wanted, out=folder / name)
        found.append(float(run.predictions("test").correct[:TESTED].mean()))
    return "".join(f"{100 * accuracy:8.1f}" for accuracy in found)


def accuracies_of(peer: str, folder: Path) -> str:
    answer = run_peer(*PEERS[peer], write_job(folder, SCORED, epochs=EPOCHS))
    return "".join(f"{100 * answer[phase]['accuracy']:8.1f}" for phase in PHASES)


def write_job(folder: Path, images: int, *, epochs: int) -> Path:
    """What a peer is given: images, the weights by timm's names, and the settings."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    wanted = recipe(images)
    splits = load_data(wanted.data)
    backbone = create_backbone(wanted.backbone, size=wanted.data.size)
    rows = np.arange(len(splits.train))
    np.savez(
        folder / "data.npz",
        train_images=splits.train.read(rows),
        train_labels=splits.train.labels,
        test_images=splits.test.read(np.arange(TESTED)),
        test_labels=splits.test.labels[:TESTED],
    )
    state = {name: tensor.numpy() for name, tensor in backbone.model.state_dict().items()}
    np.savez(folder / "weights.npz", **state)
    job: dict[str, Any] = {
        "backbone": backbone.name,
        "size": wanted.data.size,
        "mean": backbone.preprocess.mean,
        "std": backbone.preprocess.std,
        "classes": len(splits.class_names),
        "boundary": "blocks.4.1",
        "batch": wanted.batch_size,
        "seed": wanted.seed,
    }
    for phase in PHASES:
        job |= {f"{phase}_epochs": epochs, f"{phase}_lr": RATES[phase]}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder


def report(timed: dict[str, list[Seconds]]) -> None:
    """Seconds for IMAGES images, medians, and how many times Headstart's they are."""
    print(f"seconds for {EPOCHS} and {EPOCHS} epochs of {IMAGES:,} images, and times Headstart's:")
    print(f"{'':<12}" + "".join(f"{part:>30}" for part in (*PHASES, "both")))
    series = {
        name: {phase: [r[phase] for r in repeats] for phase in PHASES}
        | {"both": [r["frozen"] + r["tuned"] for r in repeats]}
        for name, repeats in timed.items()
    }
    ours = series["headstart"]
    for name, parts in series.items():
        cells = []
        for part, seconds in parts.items():
            times = "" if name == "headstart" else f"  {ratio(seconds, ours[part])}"
            cells.append(f"{f'{statistics.median(seconds):.1f}{times}':>30}")
        print(f"{name:<12}" + "".join(cells))


if __name__ == "__main__":
    main()
