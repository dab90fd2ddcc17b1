"""The cost of serving a model on this machine: latency, throughput and memory."""

from __future__ import annotations

import gc
import subprocess
from datetime import UTC, datetime

import numpy as np

from headstart.deployment.timing import BATCH, as_served, batch_for, milliseconds, side_of
from headstart.machine.host import may_have_cuda, peak_memory_mb, reset_peak_memory
from headstart.machine.processes import python_command, python_environment
from headstart.rundir.records import LatencyMs, Measured, OnCuda, Serving, Throughput
from headstart.rundir.run import Run
from headstart_predict.answers import PictureClassifier
from headstart_predict.engines import cpu_name, usable_cores
from headstart_predict.predictor import BundlePredictor

WARM_UP = 3  # calls before those that are timed
MEMORY_S = 120.0  # the longest that the process which tells its memory may take
CALLS, CUDA_CALLS = 3, 50  # calls with single images; with a batch a tenth as many


def serving_cost(run: Run, device: str = "auto") -> Serving:
    """The serving cost of a finished run, measured with its bundle; with torch if it has none. Call
    it in a process that does nothing else.

    serving_rss_mb: the largest resident set while the model is loaded and answers; of a bundle, in
    a process that has seen no other model. latency_ms, throughput: on the CPU, from stored pixels
    to probabilities, without decoding. They are a first measurement; `timing.time_in_turns` gives
    times that can be compared. cuda: the same two on CUDA, and the memory of the device in MB.
    """
    gc.collect()
    reset_peak_memory()
    side = side_of(run)
    predictor = as_served(run)
    latency, throughput = _speed(predictor, side)
    measured = Measured(
        process=f"its own, after the runs, by {predictor.engine_name}",
        warm_up=WARM_UP,
        precision=run.recipe.precision,
        threads=usable_cores(),
        cpu=cpu_name(),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        session=None,
        rounds=None,
        cores_left=None,
        busy=None,
    )
    memory = _memory_mb(predictor)
    return Serving(latency, throughput, memory, measured, _on_cuda(run, device))


# One image and then a batch, as they are timed.
_ANSWERS = """
import sys
import numpy as np
from headstart.machine.host import peak_memory_mb
from headstart_predict import load
predictor = load(sys.argv[1])
pixels = np.zeros((int(sys.argv[2]), predictor.side, predictor.side, 3), np.uint8)
predictor.logits(pixels[:1])
predictor.logits_of_series(pixels)
print(peak_memory_mb())
"""


def _memory_mb(predictor: PictureClassifier) -> float:
    """The peak of a process that loads a bundle and answers; of this one where torch answers.

    This process keeps memory of the models before.
    """
    if not isinstance(predictor, BundlePredictor):
        return peak_memory_mb()
    words = [str(predictor.bundle.path.absolute()), str(BATCH)]
    done = subprocess.run(
        python_command("-c", _ANSWERS, *words),
        env=python_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=MEMORY_S,
    )
    return float(done.stdout)


def _on_cuda(run: Run, device: str) -> OnCuda | None:
    """The same on CUDA, by torch; None where `device` is another one."""
    if device == "cpu" or (device == "auto" and not may_have_cuda()):
        return None
    import torch

    from headstart.deployment.predictor import load_predictor
    from headstart.machine.runtime import create_runtime, machine

    chosen = create_runtime(device).device
    if chosen.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(chosen)
    latency, throughput = _speed(load_predictor(run, device=device), side_of(run), CUDA_CALLS)
    peak = torch.cuda.max_memory_allocated(chosen) / 1e6
    return OnCuda(latency, throughput, name=str(machine()["gpu"]), memory_mb=peak)


def _speed(
    predictor: PictureClassifier, side: int, calls: int = CALLS
) -> tuple[LatencyMs, Throughput]:
    """Latency of one image, and images/s of a batch, from a few calls."""
    one = [milliseconds(predictor, side, 1) for _ in range(WARM_UP + calls)][WARM_UP:]
    batch = batch_for(float(np.median(one)))
    many = [milliseconds(predictor, side, batch) for _ in range(1 + calls // 10)]
    many = many[1:] or many
    p95 = float(np.percentile(one, 95))
    latency = LatencyMs(float(np.median(one)), low=None, high=None, p95=p95, n=len(one))
    rate = 1e3 * batch / float(np.median(many))
    return latency, Throughput(rate, low=None, high=None, batch=batch, n=len(many))
