"""A grid of penalties for a head against one penalty, on 50,000 x 1,280 features of CIFAR-10.

    python bench/heads.py [--repeats N]

MobileNetV2's pooled features at 96 pixels of all 50,000 training images (a twentieth of them for
validation) are extracted once, in bfloat16 if the CPU supports it. Then two measurements alternate.
The first solves one penalty from the origin: the best one on validation, so that it is neither easy
nor hard. The second solves fifty, from 10 to 1e-5 without an early end, as a phase does: at
PATH_TOLERANCE, and then the best to TOLERANCE, like the single one. Prints passes over the
features, seconds, and the ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace

import numpy as np
import torch
from harness import machine_line, ratio

from headstart.data import ImageSet, fetch, load_data
from headstart.errors import HeadstartError
from headstart.features.cache import BoundaryCache, as_tensor
from headstart.machine.progress import Reporter
from headstart.machine.runtime import Runtime, create_runtime
from headstart.models.backbones import create_backbone
from headstart.specs import BackboneSpec, DataSpec
from headstart.training import solver
from headstart.training.solver import Solution, Table, solve_path
from headstart.views.transforms import Transform

PENALTIES = tuple(float(l2) for l2 in np.geomspace(10, 1e-5, 50))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["HEADSTART_DATA"] = str(fetch("cifar10").parent)
    # Every value of the grid, also past the best one.
    solver.PATIENCE = len(PENALTIES)
    with tempfile.TemporaryDirectory() as scratch:
        backbone = create_backbone(BackboneSpec(name="mobilenetv2_100"))
        os.environ["HEADSTART_CACHE"] = scratch
        splits = load_data(DataSpec(source="cifar10", size=32, val_fraction=0.05))
        transform = Transform(replace(backbone.preprocess, size=96))
        top = len(backbone.stages())
        cache = BoundaryCache(backbone, top, transform, runtime(), Reporter())

        def table(images: ImageSet) -> Table:
            rows = cache.rows(images, label="frozen pass")
            features = as_tensor(rows.array).view(len(images), -1)
            return Table(features, torch.tensor(images.labels), rows.release)

        train, val = table(splits.train), table(splits.val)
        seconds: dict[str, list[float]] = {"one": [], "grid": []}
        best = next(s for s in solve_path(train, val, 10, l2_path=PENALTIES) if s.chosen)
        for _ in range(repeats):
            for name, path in (("one", (best.l2,)), ("grid", PENALTIES)):
                started = time.perf_counter()
                solutions = solve_path(train, val, 10, l2_path=path)
                seconds[name].append(time.perf_counter() - started)
                tell(name, solutions, seconds[name][-1])
    print(machine_line(repeats))
    n, d = train.features.shape
    print(f"{n:,} x {d:,} features; best penalty {best.l2:.2g}")
    for name, each in seconds.items():
        print(f"{name:<6}{statistics.median(each):8.2f} s ({min(each):.2f} to {max(each):.2f})")
    print(f"the grid takes {ratio(seconds['grid'], seconds['one'])} times as long as one")


def runtime() -> Runtime:
    try:
        return create_runtime("cpu", precision="bfloat16")
    except HeadstartError:
        return create_runtime("cpu")


def tell(name: str, solutions: list[Solution], seconds: float) -> None:
    passes = sum(s.iterations for s in solutions)
    loss = min(s.val_loss for s in solutions)
    print(f"  {name}: {passes} passes, {seconds:.2f} s, lowest validation loss {loss:.4f}")


if __name__ == "__main__":
    main()
