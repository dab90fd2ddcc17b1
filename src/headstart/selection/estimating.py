"""How long a run would take and what it would leave on disk: an estimate from a short measurement.

The speed of a frozen pass is timed on a few of the recipe's own training images, decoding included,
and multiplied by what the run computes. It is of this machine as busy as it is now.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headstart.features.engines import compile_prefix
from headstart.models.backbones import load_backbone
from headstart.plan.plan import Plan
from headstart.selection.halving import OVERHEAD_S, STEP_S
from headstart.selection.workload import workload
from headstart.text.durations import format_seconds

MEASURED_S, MEASURED_IMAGES = 1.5, 64
SOLVE_S = 6e-4  # of a solved head, a row
FILES_BYTES = 2_000_000  # a run's predictions, pictures and report


@dataclass(frozen=True)
class Speed:
    """Of a backbone's whole frozen pass here and now. setup_s: to build and compile it."""

    setup_s: float
    images_per_s: float


@dataclass(frozen=True)
class Estimate:
    """What a run should take if nothing of it is cached yet: seconds and bytes, roughly.

    entries: what its phases keep in the boundary cache, by a name that runs with the same features
    share, in bytes.
    """

    seconds: float
    run_bytes: int
    entries: dict[str, int]
    images_per_s: float

    @property
    def cache_bytes(self) -> int:
        return sum(self.entries.values())

    def __str__(self) -> str:
        return (
            f"about {format_seconds(self.seconds)}, {self.run_bytes / 1e6:.0f} MB for the run and "
            f"{self.cache_bytes / 1e6:.0f} MB of cache (an estimate, from "
            f"{self.images_per_s:,.0f} images/s just now)"
        )


def measure_speed(plan: Plan) -> Speed:
    """Time a plan's frozen pass on some of its training images."""
    images, runtime = plan.splits.train, plan.runtime
    transform, size = plan.transform.plain, plan.size
    chosen = np.linspace(0, len(images) - 1, min(MEASURED_IMAGES, len(images))).astype(int)

    def inputs(batch: int, seconds: float) -> Iterator[torch.Tensor]:
        started = time.perf_counter()
        for first in range(0, len(chosen), batch):
            rows = chosen[first : first + batch]
            yield transform(runtime.place(images.read(rows)), images.keys[rows])
            if time.perf_counter() - started > seconds:
                return

    started = time.perf_counter()
    backbone = load_backbone(plan.weights, size=size)
    top = len(backbone.stages())
    calibration = inputs(1, MEASURED_S)
    prefix = compile_prefix(backbone, top, size, runtime, calibration=calibration)
    batch = min(prefix.engine.batch, 16)
    for _ in prefix.run(inputs(1, 0.0)):  # the first pass pays for what later ones find ready
        pass
    ready = time.perf_counter()
    done = sum(len(rows) for rows in prefix.run(inputs(batch, MEASURED_S)))
    return Speed(ready - started, done / (time.perf_counter() - ready))


def estimate_run(plan: Plan, speed: Speed) -> Estimate:
    """What a plan's run should take."""
    recipe, work = plan.recipe, workload(plan)
    seconds = OVERHEAD_S + speed.setup_s * len(plan.phases) + work.passes / speed.images_per_s
    seconds += work.steps * STEP_S + work.solved * SOLVE_S
    last = plan.phases[-1]
    parameters = last.frozen + last.trainable + last.head
    shared = f"{recipe.data.model_dump_json()} {plan.weights.identity} {plan.runtime.precision}"
    if recipe.data.augment.active:  # whose views follow the seed
        shared += f" seed {recipe.seed}"
    entries = {
        f"{shared} {phase.freeze.boundary_name} {phase.cache}": phase.cache.bytes
        for phase in plan.phases
        if phase.cache is not None
    }
    return Estimate(seconds, 4 * parameters + FILES_BYTES, entries, speed.images_per_s)


def total(estimates: Sequence[Estimate]) -> Estimate:
    """A study's: runs one after the other, what they share in the cache counted once."""
    entries = {name: size for each in estimates for name, size in each.entries.items()}
    slowest = min(each.images_per_s for each in estimates)
    seconds = sum(each.seconds for each in estimates)
    return Estimate(seconds, sum(each.run_bytes for each in estimates), entries, slowest)
