"""Several labels an image: solved heads beside scikit-learn's one-vs-rest, and whole runs.

    GOMP_SPINCOUNT=3000 python bench/many_labels.py [--images 4000] [--repeats 3] [--tune EPOCHS]
        [--only fine|grids]

Two sets are made of CIFAR-100 (from HEADSTART_DATA): its images with their fine and their coarse
label, and grids of two by two images with the fine labels of all four. A quarter as many test
images are made of CIFAR-100's test split. MobileNetV2 sees them at 96 pixels. On its pooled
features Headstart solves all penalties of its path and chooses on validation; scikit-learn fits
OneVsRestClassifier(LogisticRegression) on standardised features once, at its default and at the
penalty that Headstart chose, both on train alone. The fits alternate; mAP is on test. Seconds are
of the wall and of the CPU, which other work on the machine disturbs less. Then whole runs are
carried out from the tables: the head alone, and with --tune the last stage too.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from harness import leave_serving_unmeasured, machine_line, ratio, spread
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

import headstart
from headstart.data import ImageSet, Splits, load_data
from headstart.data.sources.cifar import CIFAR100, SIDE, find
from headstart.features.cache import BoundaryCache, as_tensor
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.models.backbones import create_backbone
from headstart.specs import BackboneSpec, DataSpec
from headstart.training.solver import Table, solve_path
from headstart.views.transforms import Transform

BACKBONE, SIZE = "mobilenetv2_100", 96
COARSE = [
    *("aquatic mammals", "fish", "flowers", "food containers", "fruit and vegetables"),
    *("household devices", "furniture", "insects", "large carnivores"),
    *("large man-made things", "large natural scenes", "large omnivores and herbivores"),
    *("medium mammals", "invertebrates", "people", "reptiles", "small mammals", "trees"),
    *("vehicles 1", "vehicles 2"),
]


class Drawn(NamedTuple):
    """Images of one split: uint8 (n, side, side, 3), and the labels of each."""

    pixels: np.ndarray
    labels: list[list[str]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tune", type=int, default=0, metavar="EPOCHS")
    parser.add_argument("--only", choices=("fine", "grids"))
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    leave_serving_unmeasured()
    print(machine_line(options.repeats))
    with tempfile.TemporaryDirectory() as scratch:
        create_backbone(BackboneSpec(name=BACKBONE))  # its weights stay in the usual cache
        for name, make in (("fine and coarse", fine_and_coarse), ("grids of four", grids)):
            if options.only not in (None, name.split()[0]):
                continue
            folder = Path(scratch) / name.split()[0]
            table = write(folder, make("train", options.images), make("test", options.images // 4))
            heads(name, table, options.repeats)
            runs(table, folder, options.tune)


def records(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (n, 32, 32, 3), coarse labels and fine labels of CIFAR-100."""
    path = find(CIFAR100)
    if path is None:
        raise SystemExit("CIFAR-100 is not here: headstart data fetch cifar100")
    raw = np.fromfile(path / f"{split}.bin", np.uint8).reshape(-1, 2 + 3 * SIDE * SIDE)
    pixels = raw[:, 2:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return pixels, raw[:, 0], raw[:, 1]


def fine_and_coarse(split: str, count: int) -> Drawn:
    pixels, coarse, fine = records(split)
    rows = np.random.default_rng(0).permutation(len(pixels))[:count]
    names = CIFAR100.class_names
    return Drawn(pixels[rows], [[names[fine[r]], f"is {COARSE[coarse[r]]}"] for r in rows])


def grids(split: str, count: int) -> Drawn:
    pixels, _, fine = records(split)
    rows = np.random.default_rng(0).integers(0, len(pixels), (count, 4))
    pairs = [np.concatenate([pixels[rows[:, i]], pixels[rows[:, i + 1]]], axis=2) for i in (0, 2)]
    names = CIFAR100.class_names
    labels = [sorted({names[fine[r]] for r in four}) for four in rows]
    return Drawn(np.concatenate(pairs, axis=1), labels)


def write(folder: Path, train: Drawn, test: Drawn) -> Path:
    """The images as files, and the table that names them."""
    folder.mkdir(parents=True)
    lines = [("path", "label", "split")]
    for split, drawn in (("train", train), ("test", test)):
        for number, (image, labels) in enumerate(zip(*drawn, strict=True)):
            path = f"{split}-{number:05}.png"
            Image.fromarray(image).save(folder / path)
            lines.append((path, "|".join(labels), split))
    table = folder / "labels.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return table


def features(splits: Splits) -> dict[str, np.ndarray]:
    """float32 (n, 1280) of each split."""
    backbone = create_backbone(BackboneSpec(name=BACKBONE))
    transform = Transform(replace(backbone.preprocess, size=SIZE))
    runtime, top = create_runtime("cpu"), len(backbone.stages())
    cache = BoundaryCache(backbone, top, transform, runtime, Reporter(), splits.train)

    def of(images: ImageSet) -> np.ndarray:
        array = as_tensor(cache.rows(images, label="frozen pass").array)
        return array.view(len(images), -1).float().numpy()

    return {name: of(getattr(splits, name)) for name in ("train", "val", "test")}


def heads(name: str, table: Path, repeats: int) -> None:
    splits = load_data(DataSpec(source=f"manifest:{table}", labels="many", size=SIZE))
    x = features(splits)
    y = {split: getattr(splits, split).labels for split in x}
    seconds: dict[str, list[float]] = {}
    of_cpu: dict[str, list[float]] = {}
    reached: dict[str, float] = {}

    def timed(how: str, fit: object) -> None:
        started, before = time.perf_counter(), time.process_time()
        scores = fit()  # type: ignore[operator]
        seconds.setdefault(how, []).append(time.perf_counter() - started)
        of_cpu.setdefault(how, []).append(time.process_time() - before)
        held = y["test"].any(axis=0)
        reached[how] = float(average_precision_score(y["test"][:, held], scores[:, held]))

    train, val = (Table(torch.from_numpy(x[s]), torch.from_numpy(y[s])) for s in ("train", "val"))
    chosen = next(s for s in solve_path(train, val, y["val"].shape[1]) if s.chosen)

    def ours() -> np.ndarray:
        best = next(s for s in solve_path(train, val, y["val"].shape[1]) if s.chosen)
        return np.asarray(x["test"] @ best.weight.T.numpy() + best.bias.numpy())

    def theirs(c: float) -> np.ndarray:
        scaler = StandardScaler().fit(x["train"])
        model = OneVsRestClassifier(LogisticRegression(C=c, max_iter=1000))
        model.fit(scaler.transform(x["train"]), y["train"])
        return np.asarray(model.decision_function(scaler.transform(x["test"])))

    same = 1 / (chosen.l2 * len(x["train"]))
    for _ in range(repeats):
        timed("Headstart, the whole path", ours)
        timed("scikit-learn, C = 1", lambda: theirs(1.0))
        timed(f"scikit-learn, C = {same:.2g}", lambda: theirs(same))
    n, d = x["train"].shape
    print(f"\n{name}: {n:,} x {d:,} features, {y['train'].shape[1]} labels, penalty {chosen.l2:g}")
    own = seconds["Headstart, the whole path"]
    for how, each in seconds.items():
        told = f"{spread(each, 1)} s, CPU {spread(of_cpu[how], 1)} s"
        if each is not own:
            first = of_cpu["Headstart, the whole path"]
            told += f"; {ratio(each, own)} times ours, CPU {ratio(of_cpu[how], first)}"
        print(f"  {how:<28} mAP {100 * reached[how]:.2f} %, {told}", flush=True)


def runs(table: Path, folder: Path, epochs: int) -> None:
    phases: list[dict[str, object]] = [{"train": "head"}]
    recipes = {"head": phases}
    if epochs:
        recipes["tuned"] = [*phases, {"train": "last_stage", "epochs": epochs}]
    for name, given in recipes.items():
        recipe = headstart.Recipe.model_validate(
            {"name": name, "phases": given, "backbone": {"name": BACKBONE},
             "data": {"source": f"manifest:{table}", "labels": "many", "size": SIZE}}
        )  # fmt: skip
        run = headstart.run(recipe, out=folder / name, reporter=Reporter())
        test, cost = run.many_metrics.test, run.cost
        low, high = test.interval
        print(
            f"  run, {name}: mAP {100 * test.mean_ap:.1f} % [{100 * low:.1f}, {100 * high:.1f}], "
            f"micro F1 {test.micro_f1:.3f}, macro F1 {test.macro_f1:.3f}, all right "
            f"{100 * test.all_right:.1f} %, ECE {100 * test.ece:.2f} %, temperature "
            f"{run.temperature:.2f}, {cost.extract_s + cost.train_s:.0f} s"
        )


if __name__ == "__main__":
    main()
