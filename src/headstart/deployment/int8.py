"""A model in eight bits: quantized on training images, and held against the one in float32.

Weights are quantized for each channel, activations for each tensor, with NNCF's bias correction.
What comes before the first convolution, the first few convolutions, and the last layer stay in
float32: pixels and logits need more digits than eight bits have, and what the first layers round
away is lost to all others.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from headstart.data.images import ImageSet
from headstart.errors import BundleError, PrecisionError
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import paired_change
from headstart_predict.engines import INPUT, import_openvino

CALIBRATION = 300  # training images
# Convolutions that stay in float32. With none of them MobileNetV2 answered 8.9 % of CIFAR-10's test
# images otherwise and lost 1.3 points; with five, 3.3 % of 3,000, and none beyond chance.
FLOAT_CONVOLUTIONS = 5
TOLERANCE = 0.2  # of a probability, between engines: each rounds in its own way
MAX_DROP = 1.0  # points of accuracy


@dataclass(frozen=True)
class Int8:
    """How a model in eight bits differs on `images` test images.

    change: of accuracy, with its 95 % interval. answered_otherwise: share of the images.
    """

    images: int
    change: float
    low: float
    high: float
    answered_otherwise: float
    megabytes: float
    megabytes_float32: float


def to_int8(model: bytes, images: ImageSet) -> bytes:
    """A model of ONNX in eight bits. images: of training, of which some give the ranges.

    Raises PrecisionError where NNCF is not installed.
    """
    if not find_spec("nncf"):
        raise PrecisionError("int8 needs nncf, which is not installed: uv pip install nncf")
    import_openvino()  # before NNCF, so that neither sends telemetry
    import nncf
    import onnx

    whole = onnx.load_from_string(model)
    rows = np.linspace(0, len(images) - 1, min(CALIBRATION, len(images))).astype(np.int64)
    inputs = [{INPUT: images.read(rows[i : i + 1])} for i in range(len(rows))]
    with _quiet():
        quantized = nncf.quantize(
            whole,
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=_kept_in_float(whole)),
        )
    return bytes(quantized.SerializeToString())


def _kept_in_float(model: object) -> list[str]:
    """The names of the nodes that stay in float32."""
    nodes = list(model.graph.node)  # type: ignore[attr-defined]  # onnx is not typed
    layers = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    before = nodes[: nodes.index(convolutions[0])] if convolutions else []
    # Where there are few, eight bits would be left for hardly any.
    first = convolutions[: min(FLOAT_CONVOLUTIONS, len(convolutions) // 4)]
    return [node.name for node in (*before, *first, *layers[-1:])]


def compare_int8(tested: Predictions, answered: np.ndarray, megabytes: tuple[float, float]) -> Int8:
    """Logits in eight bits beside the tested ones, image by image. megabytes: of both models."""
    eight = Predictions(tested.ids, tested.labels, answered)
    found = paired_change(tested, eight)
    return Int8(
        images=len(tested.ids),
        change=found.change,
        low=found.interval[0],
        high=found.interval[1],
        answered_otherwise=float((eight.predicted != tested.predicted).mean()),
        megabytes=megabytes[0],
        megabytes_float32=megabytes[1],
    )


def require_small_drop(found: Int8, max_drop: float) -> None:
    """Raises BundleError where accuracy falls by more than `max_drop` points."""
    if -100 * found.change > max_drop:
        raise BundleError(
            f"int8 is not exported: {describe_int8(found)} --max-drop allows more than "
            f"{max_drop:g} points"
        )


def describe_int8(found: Int8) -> str:
    return (
        f"In int8 accuracy changes by {100 * found.change:+.2f} points (95 % interval "
        f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]) on {found.images:,} test images, of "
        f"which {found.answered_otherwise:.1%} are answered otherwise; the model has "
        f"{found.megabytes:.1f} MB instead of {found.megabytes_float32:.1f}."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block NNCF draws no bars and says nothing."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
