"""Latencies of several models, measured in turns until they are steady.

On a shared machine, the same model takes 11 ms in one second and 17 ms in the next. So models are
timed A B C A B C: a slower machine slows all of them. Rounds continue until each median is known to
STEADY, or the time is over. If the times are not steady by then, or other processes used the cores,
the times are marked as those of a busy machine, and nothing is ranked by them. Runs with the same
network are timed as one.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart.deployment.quickest import open_predictor
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import median_interval
from headstart.rundir.records import LatencyMs, Throughput
from headstart.rundir.run import Run
from headstart_predict.answers import PictureClassifier
from headstart_predict.engines import usable_cores

STEADY = 0.05  # rounds end when half a 95 % interval is at most this share of the median
FEWEST_ROUNDS = 6  # the fewest rounds with which the median has a 95 % interval
MOST_ROUNDS, MOST_S = 40, 10.0  # limits for all models together
MOST_S_SLOW = 30.0  # the limit where models are so slow that FEWEST_ROUNDS take longer
TURN_S = 0.1  # of single images, for each model in each round
# A process needs a warm-up: in its first two seconds an image took up to half as long again.
WARM_UP_S = 2.5
BATCH, SMALLEST_BATCH = 32, 4  # images
BATCH_S, BATCH_ROUNDS = 0.4, 3
HELD_MB = 2000  # models of up to this size together stay loaded; otherwise each turn loads one
LEFT = 0.8  # with a smaller share of the cores' time, other processes used them
PROBED_S, PROBED = 0.03, 2**16  # seconds in each round; numbers of each thread


@dataclass
class Turns:
    """The times of a model so far, in milliseconds. calls: with one image. rounds: the median of
    each turn. batches: calls with a batch."""

    run: Run
    predictor: PictureClassifier | None = None
    calls: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)

    def take(self, *, hold: bool, batch: bool) -> None:
        """Measure one turn. hold: keep the model loaded. batch: time a batch, too."""
        predictor = self.predictor or as_served(self.run)
        self.predictor = predictor if hold else None
        side, began, own = side_of(self.run), time.perf_counter(), list[float]()
        while not own or time.perf_counter() - began < TURN_S:
            own.append(milliseconds(predictor, side, 1))
        own = own[1:] or own  # in the first call, the CPU's caches are full of another model
        self.calls += own
        self.rounds.append(float(np.median(own)))
        if batch:
            self.batches.append(milliseconds(predictor, side, batch_for(self.rounds[0])))

    def describe(self) -> tuple[LatencyMs, Throughput]:
        low, high = median_interval(self.rounds)
        batch = batch_for(self.rounds[0])
        rates = sorted(1e3 * batch / taken for taken in self.batches)
        latency = LatencyMs(
            median=float(np.median(self.rounds)),
            low=low,
            high=high,
            p95=float(np.percentile(self.calls, 95)),
            n=len(self.calls),
        )
        middle = float(np.median(rates))
        return latency, Throughput(middle, rates[0], rates[-1], batch=batch, n=len(rates))

    @property
    def steady(self) -> bool:
        low, high = median_interval(self.rounds)
        middle = float(np.median(self.rounds))
        return (
            len(self.rounds) >= FEWEST_ROUNDS
            and max(high - middle, middle - low) <= STEADY * middle
        )


@dataclass(frozen=True, slots=True)
class Timed:
    """A run's times, measured in turns; the last four fields are those of `Measured`."""

    latency_ms: LatencyMs
    throughput: Throughput
    session: str
    rounds: int
    cores_left: float
    busy: str | None


def time_in_turns(runs: Sequence[Run], since: float) -> list[Timed]:
    """Each run's times, within about MOST_S seconds, or MOST_S_SLOW where models are slow.

    since: perf_counter when this process began to run models.
    """
    networks: dict[Any, Turns] = {}
    for run in runs:
        networks.setdefault(_network(run), Turns(run))
    hold = sum(_megabytes(turns.run) for turns in networks.values()) <= HELD_MB
    _warm_up(runs[0], since + WARM_UP_S)
    began, rounds, cores = time.perf_counter(), 0, Cores()
    while _go_on(list(networks.values()), rounds, time.perf_counter() - began, cores):
        for turns in networks.values():
            turns.take(hold=hold, batch=rounds < BATCH_ROUNDS)
        cores.look()
        rounds += 1
    session, left = secrets.token_hex(4), cores.left
    answers = []
    for run in runs:
        turns = networks[_network(run)]
        busy = why_busy(left, steady=turns.steady)
        answers.append(Timed(*turns.describe(), session, rounds, left, busy))
    return answers


def _go_on(models: Sequence[Turns], rounds: int, spent_s: float, cores: Cores) -> bool:
    """Whether to measure another round."""
    if rounds < FEWEST_ROUNDS:
        return rounds == 0 or spent_s < MOST_S_SLOW
    enough = rounds >= MOST_ROUNDS or spent_s > MOST_S or cores.left < LEFT
    return not enough and not all(turns.steady for turns in models)


def why_busy(left: float, *, steady: bool) -> str | None:
    """Why times are not reliable, or None. left: see Cores."""
    if left < LEFT:
        return f"other processes left {left:.0%} of the cores' time"
    return None if steady else f"times were not steady within {STEADY:.0%}"


def cores_granted(root: Path = Path("/sys/fs/cgroup")) -> float:
    """The quota of the container, in cores; infinite without one.

    From cpu.max of cgroup v2 ("200000 100000": microseconds in each period), or the two files of
    v1.
    """
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = (
            (root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
        )
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    return math.inf


class Cores:
    """The share of the cores' time that this process gets when every thread has work; 1 if no other
    process runs. Time above a container's quota does not count."""

    def __init__(self) -> None:
        self._numbers = np.random.default_rng(0).random(PROBED, np.float32)
        self._had = self._asked = 0.0
        self._threads = usable_cores()
        self._most = min(self._threads, cores_granted())

    def look(self) -> None:
        """Compute on every thread for PROBED_S."""
        began, had = time.perf_counter(), time.process_time()

        def compute() -> None:
            out = np.empty_like(self._numbers)
            while time.perf_counter() - began < PROBED_S:
                np.exp(self._numbers, out=out)

        others = [threading.Thread(target=compute) for _ in range(self._threads - 1)]
        for thread in others:
            thread.start()
        compute()
        for thread in others:
            thread.join()
        wall = time.perf_counter() - began
        self._had += time.process_time() - had
        self._asked += wall * self._most

    @property
    def left(self) -> float:
        return min(self._had / self._asked, 1.0)


def milliseconds(predictor: PictureClassifier, side: int, batch: int) -> float:
    """The time of one call with `batch` random images, probabilities included."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    ids, labels = np.arange(batch).astype(str), np.zeros(batch, np.int64)
    ask = predictor.logits if batch == 1 else predictor.logits_of_series
    began = time.perf_counter()
    _ = Predictions(ids, labels, ask(pixels)).probabilities
    return 1e3 * (time.perf_counter() - began)


def batch_for(ms: float) -> int:
    """The batch size for a model that takes `ms` milliseconds for an image."""
    batch = BATCH
    while batch > SMALLEST_BATCH and batch * ms > 1e3 * BATCH_S:
        batch //= 2
    return batch


def side_of(run: Run) -> int:
    return run.provenance.data.side


def as_served(run: Run) -> PictureClassifier:
    """What answers for a run, by the engines that are the quickest here for one image and for a
    batch: both are measured the first time, and remembered for everyone who asks the bundle."""
    predictor = open_predictor(run.path)
    predictor.prepare_for_one()
    predictor.prepare_for_many()
    return predictor


def _warm_up(run: Run, until: float) -> None:
    """Run a model until the process is warm."""
    predictor = as_served(run)
    while time.perf_counter() < until:
        milliseconds(predictor, side_of(run), 1)


def _network(run: Run) -> tuple[Any, ...]:
    """A key of the computation for an image: equal for runs with the same network."""
    recipe, made, cost = run.recipe, run.provenance, run.cost
    same = (recipe.backbone.name, recipe.precision, recipe.data.resize_via)
    prepared = (made.preprocess.size, made.data.side, made.preprocess.interpolation)
    return (*same, cost.macs, cost.parameters, *prepared)


def _megabytes(run: Run) -> float:
    return run.cost.file_mb
