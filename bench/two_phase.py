"""The two-phase workflow of transfer learning: Headstart compared with common tools.

    python bench/two_phase.py [--peers PEER ...] [--repeats N] [--peer-precision bfloat16]

CIFAR-10 on CPU, one set of MobileNetV2 weights, 96 pixels, flip and shift, norms frozen, Adam:
first the head alone, then everything from `blocks.4.1` on.

Peers (keras, torch, trainer, fastai) keep the frozen backbone in the loop, as in their guides, for
ten epochs in each phase, in float32. One warm epoch of each phase on PEER_IMAGES images, with its
validation, is timed and counted ten times. So the fixed cost of an epoch counts a little more than
it would on more images. With --peer-precision, keras and torch compute in bfloat16 too.

Headstart solves the head on one cached view instead of ten epochs, on all of CIFAR-10. Then it
trains ten epochs on two cached views, on TUNED_IMAGES. All of its time counts, with compilation,
frozen passes, the choice of the penalty and validation; once in float32 and once in bfloat16, if
the CPU supports it. All times are seconds for 10,000 images, a tenth of them for validation after
every epoch. The tools alternate, N times; medians, and ratios with their range. So fixed costs are
spread over all of CIFAR-10 in the first phase, and over TUNED_IMAGES in the second.

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
from harness import leave_serving_unmeasured, machine_line, ratio, run_peer

import headstart
from headstart.data import fetch, load_data
from headstart.errors import HeadstartError
from headstart.features import room
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import create_backbone
from headstart.recipe import Recipe
from headstart.rundir.history import Extract

PEERS = {
    "keras": ("keras", "keras_two_phase.py"),
    "torch": ("torch", "torch_two_phase.py"),
    "trainer": ("torch", "trainer_two_phase.py"),
    "fastai": ("torch", "fastai_two_phase.py"),
}
FROZEN_IMAGES, TUNED_IMAGES, PEER_IMAGES, SCORED, TESTED = 50_000, 3_000, 640, 500, 2_000
PER_IMAGES = 10_000  # images that the seconds are for
EPOCHS = 10
RATES = {"frozen": 1e-3, "tuned": 1e-4}
PHASES = ("frozen", "tuned")
Seconds = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-precision", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    if options.peer_precision != "float32" and not {"keras", "torch"} >= set(options.peers):
        parser.error("only keras and torch compute in bfloat16: --peers keras torch")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    leave_serving_unmeasured()
    os.environ["HEADSTART_DATA"] = str(fetch("cifar10").parent)
    ours = {"headstart": "float32"}
    try:
        create_runtime("cpu", precision="bfloat16")
        ours["headstart, bfloat16"] = "bfloat16"
    except HeadstartError as error:
        print(error)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["HEADSTART_CACHE"] = str(folder / "cache")
        create_backbone(recipe(SCORED, "float32").backbone)  # the weights, fetched
        timed: dict[str, list[Seconds]] = {name: [] for name in (*ours, *options.peers)}
        for repeat in range(options.repeats):
            for name, precision in ours.items():
                timed[name].append(seconds_here(folder / f"{precision}-{repeat}", precision))
            for peer in options.peers:
                timed[peer].append(seconds_of(peer, folder / "timing", options.peer_precision))
        print(machine_line(options.repeats))
        report(timed, list(ours), options.peer_precision)
        print(
            f"\ntest accuracy, % of {TESTED:,}, after {EPOCHS} and {EPOCHS} epochs on {SCORED:,}:"
        )
        for name, precision in ours.items():
            print(f"{name:<20}" + accuracies_here(folder / f"scored-{precision}", precision))
        for peer in options.peers:
            print(f"{peer:<20}" + accuracies_of(peer, folder / "scoring", options.peer_precision))


def recipe(images: int, precision: str, phases: int = 2, tested: int = TESTED) -> Recipe:
    settings = (
        "data.source=cifar10",
        f"data.train_limit={images}",
        f"data.test_limit={tested}",
        "evaluation.label_efficiency=false",
        "data.augment.rotate=0",
        "data.augment.shift=0.1",
        f"precision={precision}",
        'phases=[{train="head", views=1}, {train="from:blocks.4.1", optimizer="adam", views=2, '
        f'epochs={EPOCHS}, lr={RATES["tuned"]}, schedule="constant"}}]',
    )
    whole = headstart.load_recipe("s2", settings)
    return whole.model_copy(update={"phases": whole.phases[:phases]})


def seconds_here(folder: Path, precision: str) -> Seconds:
    """Each phase for PER_IMAGES images, from an empty cache, everything it needs included."""
    seconds_by_phase = {}
    for number, (phase, images) in enumerate(
        zip(PHASES, (FROZEN_IMAGES, TUNED_IMAGES), strict=True)
    ):
        room.clear_cache()
        timed = recipe(images, precision, phases=number + 1, tested=100)
        run = headstart.run(timed, out=folder / phase)
        passes = [each for each in run.history.every(Extract) if each.split != "test"]
        seconds = run.history.done[number].seconds
        seconds += sum(each.seconds for each in passes if each.phase == number)
        seconds_by_phase[phase] = seconds * PER_IMAGES / images
    return seconds_by_phase


def seconds_of(peer: str, folder: Path, precision: str) -> Seconds:
    """The second epoch, ten times, for PER_IMAGES images; "validating" is part of the phases."""
    answer = run_peer(*PEERS[peer], write_job(folder, PEER_IMAGES, precision, epochs=2))
    scale = EPOCHS * PER_IMAGES / PEER_IMAGES
    seconds = {"validating": 0.0}
    for phase in PHASES:
        training, validation = (scale * answer[phase][k][-1] for k in ("epoch_s", "validation_s"))
        seconds[phase] = training + validation
        seconds["validating"] += validation
    return seconds


def accuracies_here(folder: Path, precision: str) -> str:
    accuracies = []
    for number, name in enumerate(PHASES, start=1):
        run = headstart.run(recipe(SCORED, precision, phases=number), out=folder / name)
        accuracies.append(float(run.predictions("test").correct.mean()))
    return "".join(f"{100 * accuracy:8.1f}" for accuracy in accuracies)


def accuracies_of(peer: str, folder: Path, precision: str) -> str:
    answer = run_peer(*PEERS[peer], write_job(folder, SCORED, precision, epochs=EPOCHS))
    return "".join(f"{100 * answer[phase]['accuracy']:8.1f}" for phase in PHASES)


def write_job(folder: Path, images: int, precision: str, *, epochs: int) -> Path:
    """What a peer is given: images, the weights by timm's names, and the settings."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    wanted = recipe(images, "float32", tested=TESTED if images == SCORED else 100)
    splits = load_data(wanted.data)
    backbone = create_backbone(wanted.backbone, size=wanted.data.size)
    np.savez(
        folder / "data.npz",
        train_images=splits.train.read(np.arange(len(splits.train))),
        train_labels=splits.train.labels,
        val_images=splits.val.read(np.arange(len(splits.val))),
        val_labels=splits.val.labels,
        test_images=splits.test.read(np.arange(len(splits.test))),
        test_labels=splits.test.labels,
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
        "precision": precision,
    }
    for phase in PHASES:
        job |= {f"{phase}_epochs": epochs, f"{phase}_lr": RATES[phase]}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder


def report(timed: dict[str, list[Seconds]], ours: list[str], peer_precision: str) -> None:
    """Seconds for PER_IMAGES images, medians, and how many times Headstart's they are."""
    print(
        f"seconds for {PER_IMAGES:,} images, {EPOCHS} and {EPOCHS} epochs; "
        f"peers in {peer_precision}:"
    )
    series = {
        name: {phase: [r[phase] for r in repeats] for phase in PHASES}
        | {"both": [r["frozen"] + r["tuned"] for r in repeats]}
        for name, repeats in timed.items()
    }
    parts = (*PHASES, "both")
    print(f"{'':<20}" + "".join(f"{part:>10}" for part in parts))
    for name, each in series.items():
        columns = "".join(f"{statistics.median(each[p]):>10.1f}" for p in parts)
        spent = [r["validating"] for r in timed[name] if "validating" in r]
        note = f"   of which validating {statistics.median(spent):.1f}" if spent else ""
        print(f"{name:<20}{columns}{note}")
    for own in ours:
        print(f"\ntimes as long as {own}:")
        for name, each in series.items():
            if name not in ours:
                cells = (f"{ratio(each[part], series[own][part]):>24}" for part in parts)
                print(f"{name:<20}" + "".join(cells))


if __name__ == "__main__":
    main()
