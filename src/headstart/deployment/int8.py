"""A model in eight bits, quantized on training images; validation chooses what stays in float32.

Weights are quantized for each channel, activations for each tensor, both symmetrically, with NNCF's
fast bias correction. It corrects each layer by itself: so a layer can be given back its float32
afterwards. Activations with a zero point have no quick kernels in OpenVINO: a convolution that
takes some is computed in float32. What comes before the first convolution, the first convolutions,
and the last layer always stay in float32: pixels and logits need more digits than eight bits have,
and what the first layers round away is lost to all others.

Weights use half of their range. Without instructions for dot products of 8-bit numbers (VNNI), CPUs
add two products in 16 bits, which saturate: each engine, and each CPU, would answer otherwise.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from headstart.data.images import ImageSet
from headstart.deployment.held_out import HeldOut
from headstart.errors import PrecisionError
from headstart.machine.progress import Reporter
from headstart_predict.engines import INPUT, import_openvino

CALIBRATION = 300  # training images
FIRST = 5  # convolutions that always stay in float32, or a quarter where there are few
SHARES = (0.25, 0.5, 0.75)  # of the convolutions, from the first one on, that are tried after these
# By how much the mean probability of the right class may fall. It moves with the accuracy, but each
# image counts, not only the few whose answer changes: of 500 images one is 0.2 points.
MAX_FALL = 0.003
TOLERANCE = 0.2  # of a probability, between engines: each rounds in its own way


@dataclass(frozen=True)
class Quantized:
    """A model in eight bits, with `in_float` of its `layers` convolutions in float32."""

    model: bytes
    in_float: int
    layers: int


def to_int8(model: bytes, train: ImageSet, held_out: HeldOut, reporter: Reporter) -> Quantized:
    """A model of ONNX in eight bits. train: images of which some give the ranges. held_out: chooses
    how many convolutions stay in float32: as few as keep the probability of the right class, or
    those that keep it best.

    Raises PrecisionError where NNCF is not installed.
    """
    if not find_spec("nncf"):
        raise PrecisionError("int8 needs nncf, which is not installed: uv pip install nncf")
    import_openvino()  # before NNCF, so that neither sends telemetry
    import onnx

    whole = onnx.load_from_string(model)
    names = [node.name for node in whole.graph.node]
    convolutions = [node.name for node in whole.graph.node if node.op_type == "Conv"]
    count = len(convolutions)
    # Where there are few, eight bits would be left for hardly any.
    first = min(FIRST, count // 4)
    eight = _quantize(whole, convolutions[:first], train)
    tried: list[tuple[float, Quantized]] = []
    for kept in sorted({first, *(int(share * count) for share in SHARES)}):
        if kept < first:
            continue
        until = names.index(convolutions[kept]) if kept < count else 0
        content = eight if kept == first else in_float32(eight, whole, names[:until])
        fall = held_out.fall(content)
        tried.append((fall, Quantized(content, kept, count)))
        reporter.say(
            f"{kept} of {count} convolutions in float32: the probability of the right class "
            f"falls by {100 * fall:.2f} points on {len(held_out):,} validation images"
        )
        if fall <= MAX_FALL:
            return tried[-1][1]
    return min(tried, key=lambda one: one[0])[1]


def _quantize(whole: Any, in_float: Collection[str], train: ImageSet) -> bytes:
    """The model in eight bits but for these convolutions, what is before them, and the end."""
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
    )

    nodes = list(whole.graph.node)
    layers = [node.name for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    kinds = [node.op_type for node in nodes]
    before = nodes[: kinds.index("Conv")] if "Conv" in kinds else []
    ignored = [*(node.name for node in before), *in_float, *layers[-1:]]
    rows = np.linspace(0, len(train) - 1, min(CALIBRATION, len(train))).astype(np.int64)
    inputs = [{INPUT: train.read(rows[i : i + 1])} for i in range(len(rows))]
    with _quiet():
        quantized = nncf.quantize(
            whole,
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=nncf.IgnoredScope(names=ignored),
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        )
    return bytes(quantized.SerializeToString())


def in_float32(eight: bytes, whole: Any, names: Collection[str]) -> bytes:
    """The model in eight bits with the nodes of these names as they are in `whole`.

    They take again what they took in float32, with its bias; what nobody takes any more is left
    out.
    """
    import onnx

    made = onnx.load_from_string(eight)
    graph, named = made.graph, set(names)
    before = {node.name: node for node in whole.graph.node}
    own = {tensor.name: tensor for tensor in whole.graph.initializer}
    restored: set[str] = set()
    for node in graph.node:
        if node.name in named:
            node.ClearField("input")
            node.input.extend(before[node.name].input)
            restored.update(node.input)
    needed, nodes = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    held = {tensor.name: tensor for tensor in graph.initializer}
    held.update((name, own[name]) for name in restored & own.keys())
    result = onnx.ModelProto()
    result.CopyFrom(made)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(reversed(nodes))
    result.graph.initializer.extend(held[name] for name in sorted(needed & held.keys()))
    return bytes(result.SerializeToString())


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
