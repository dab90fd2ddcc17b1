"""Estimates the time and disk space of a run from a short measurement.

The speed of a frozen pass, decoding included, is measured on a few training images of the recipe
and multiplied by the work of the run. It depends on the current load of the machine.
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
SOLVE_S = 6e-4  # seconds for each row on which a head is solved
FILES_BYTES = 2_000_000  # predictions, pictures and report of a run


@dataclass(frozen=True)
class Speed:
    """The measured speed of a backbone's frozen pass. setup_s: seconds to build and compile it."""

    setup_s: float
    images_per_s: float


@dataclass(frozen=True)
class Estimate:
    """A rough estimate of a run's seconds and bytes, if nothing is cached yet.

    entries: bytes of its entries in the boundary cache, by a key that runs with the same features
    share.
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
            f"{self.images_per_s:,.0f} images/s)"
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
    for _ in prefix.run(inputs(1, 0.0)):  # a warm-up
        pass
    ready = time.perf_counter()
    done = sum(len(rows) for rows in prefix.run(inputs(batch, MEASURED_S)))
    return Speed(ready - started, done / (time.perf_counter() - ready))


def estimate_run(plan: Plan, speed: Speed) -> Estimate:
    """The estimate of a plan's run."""
    recipe, work = plan.recipe, workload(plan)
    seconds = OVERHEAD_S + speed.setup_s * len(plan.phases) + work.passes / speed.images_per_s
    seconds += work.steps * STEP_S + work.solved * SOLVE_S
    last = plan.phases[-1]
    parameters = last.frozen + last.trainable + last.head
    shared = f"{recipe.data.model_dump_json()} {plan.weights.identity} {plan.runtime.precision}"
    if recipe.data.augment.active:  # its views depend on the seed
        shared += f" seed {recipe.seed}"
    entries = {
        f"{shared} {phase.freeze.boundary_name} {phase.cache}": phase.cache.bytes
        for phase in plan.phases
        if phase.cache is not None
    }
    return Estimate(seconds, 4 * parameters + FILES_BYTES, entries, speed.images_per_s)


def total(estimates: Sequence[Estimate]) -> Estimate:
    """The estimate of a study: runs one after the other; shared cache entries count once."""
    entries = {name: size for each in estimates for name, size in each.entries.items()}
    slowest = min(each.images_per_s for each in estimates)
    seconds = sum(each.seconds for each in estimates)
    return Estimate(seconds, sum(each.run_bytes for each in estimates), entries, slowest)
