"""A model of fewer digits beside the one in float32: accuracy, megabytes and speed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.errors import BundleError
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import median_interval, paired_change
from headstart_predict import choosing
from headstart_predict.engines import Engine, cpu_name, usable_cores
from headstart_predict.predictor import BundlePredictor, compare_logits, in_batches
from headstart_predict.shapes import OneLabel

MAX_DROP = 1.0  # points of accuracy
SPEED_TURNS = 12  # of each version, a tenth of a second each
# Flags of CPUs that multiply many 8-bit numbers at once: Intel and AMD; Arm.
_EIGHT_BIT = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


@dataclass(frozen=True)
class Speed:
    """Images a second of a series on this machine, beside float32.

    times: as many images a second as float32, the median of the turns, with its 95 % interval. Each
    is answered by the engine that the predictor takes; they alternate. quick: whether the CPU has
    what the precision is quick with; None where that is not known.
    """

    times: float
    low: float
    high: float
    images_per_s: float
    images_per_s_float32: float
    engine: str
    engine_float32: str
    cpu: str
    threads: int
    quick: bool | None


@dataclass(frozen=True)
class Reduced:
    """How a model in `precision` differs from that in float32, on `images` test images.

    change: of accuracy, with its 95 % interval. answered_otherwise: share of the images. in_float:
    how many of the `layers` convolutions stay in float32; None where no layer is changed.
    """

    precision: str
    images: int
    change: float
    low: float
    high: float
    answered_otherwise: float
    megabytes: float
    megabytes_float32: float
    speed: Speed
    in_float: int | None = None
    layers: int | None = None


@dataclass(frozen=True)
class Version:
    """A model as it is served. model: of ONNX. expected: its logits (n, classes) for some pixels
    (n, side, side, 3). tolerance: of a probability, between engines."""

    precision: str
    model: bytes
    pixels: np.ndarray
    expected: np.ndarray
    temperature: float
    tolerance: float


def compare_reduced(
    tested: Predictions,
    answered: np.ndarray,
    models: tuple[Version, Version],
    in_float: tuple[int, int] | None,
) -> Reduced:
    """Logits of fewer digits beside the tested ones, image by image. models: in float32, and in
    fewer digits. in_float: convolutions in float32, of how many."""
    plain, fewer = models
    other = Predictions(tested.ids, tested.labels, answered)
    found = paired_change(tested, other)
    return Reduced(
        precision=fewer.precision,
        images=len(tested.ids),
        change=found.change,
        low=found.interval[0],
        high=found.interval[1],
        answered_otherwise=float((other.predicted != tested.predicted).mean()),
        megabytes=len(fewer.model) / 1e6,
        megabytes_float32=len(plain.model) / 1e6,
        speed=measure_speed(plain, fewer),
        in_float=in_float[0] if in_float else None,
        layers=in_float[1] if in_float else None,
    )


def require_small_drop(found: Reduced, max_drop: float) -> None:
    """Raises BundleError where accuracy falls by more than `max_drop` points."""
    if -100 * found.change > max_drop:
        raise BundleError(
            f"{found.precision} is not exported: {describe_reduced(found)} --max-drop allows more "
            f"than {max_drop:g} points"
        )


def describe_reduced(found: Reduced) -> str:
    """What the screen and the card say."""
    line = (
        f"In {found.precision} accuracy changes by {100 * found.change:+.2f} points (95 % interval "
        f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]) on {found.images:,} test images, of "
        f"which {found.answered_otherwise:.1%} are answered otherwise; the model has "
        f"{found.megabytes:.1f} MB instead of {found.megabytes_float32:.1f}."
    )
    if found.in_float is not None:
        line += f" {found.in_float} of {found.layers} convolutions stay in float32."
    return f"{line} {describe_speed(found)}"


def describe_speed(found: Reduced) -> str:
    speed = found.speed
    times, where = speed.times, f"on {speed.cpu} ({speed.threads} threads)"
    if speed.low > 1:
        return f"A series is {times:.1f} times as fast as in float32 {where}."
    if speed.high >= 1:
        line, slow = f"A series is as fast as in float32 {where}", found.precision == "bfloat16"
    else:
        line, slow = f"A series is slower than in float32 ({times:.1f} times) {where}", True
    if not slow or speed.quick is not False:
        return f"{line}."
    if found.precision == "bfloat16":
        return f"{line}: this CPU computes it in float32."
    return f"{line}: this CPU does not multiply 8-bit numbers quickly."


def measure_speed(plain: Version, fewer: Version) -> Speed:
    """Both versions in turns, each by its quickest engine, on every core."""
    streams = usable_cores()
    first, other = (_quickest(each, streams) for each in (plain, fewer))
    pixels = np.random.default_rng(0).integers(
        0, 256, (BundlePredictor.batch, *plain.pixels.shape[1:]), np.uint8
    )
    calls = {
        each.precision: choosing.asking(engine, pixels, streams)
        for each, engine in ((plain, first), (fewer, other))
    }
    rates = choosing.in_turns(calls, SPEED_TURNS)
    before, after = rates[plain.precision], rates[fewer.precision]
    images = len(pixels) * streams
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    low, high = median_interval(ratios)
    return Speed(
        times=statistics.median(ratios),
        low=low,
        high=high,
        images_per_s=images * statistics.median(after),
        images_per_s_float32=images * statistics.median(before),
        engine=other.name,
        engine_float32=first.name,
        cpu=cpu_name(),
        threads=streams,
        quick=has_quick(fewer.precision, cpu_flags()),
    )


def _quickest(version: Version, streams: int) -> Engine:
    """The engine that the predictor would take for a series, ready."""
    ids = np.arange(len(version.pixels))

    def agrees(engine: Engine) -> bool:
        found = in_batches(engine, version.pixels)
        return not compare_logits(
            ids, version.expected, found, OneLabel(version.temperature), version.tolerance
        ).changed

    started: Mapping[str, Engine] = choosing.start_agreeing(
        version.model, 1, streams, version.precision, agrees
    )
    pixels = version.pixels[: BundlePredictor.batch]
    return started[choosing.quickest(started, pixels, streams)]


def has_quick(precision: str, flags: set[str]) -> bool | None:
    """Whether a CPU with these flags has instructions for the precision; None where it has none."""
    if not flags:
        return None
    wanted = _EIGHT_BIT if precision == "int8" else {"avx512_bf16", "amx_bf16", "bf16"}
    return bool(flags & wanted)


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What the CPU can do, as Linux says; empty on other systems."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return set()
    return {
        flag
        for line in lines
        if line.startswith(("flags", "Features"))
        for flag in line.partition(":")[2].split()
    }
