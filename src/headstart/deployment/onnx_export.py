"""A finished run's model as one ONNX graph: from stored pixels to calibrated probabilities."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from headstart.errors import BundleError
from headstart.models.classifier import Classifier
from headstart.views.transforms import Transform
from headstart_predict.onnx_file import ModelError, check_model
from headstart_predict.shapes import ManyLabels, Shape

INPUT, OUTPUTS = "pixels", ("logits", "probabilities", "features")
OPSET = 18


class Deployed(nn.Module):
    """uint8 (n, side, side, 3) to logits, probabilities (n, classes) and features (n, features).

    The resize is two products with a constant matrix, which is the plain view's own. ONNX has an
    antialiased Resize, but its answers differ from torch's.
    """

    def __init__(self, model: Classifier, transform: Transform, side: int, shape: Shape) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head
        preprocess, self.temperature = transform.preprocess, shape.temperature
        self.many = isinstance(shape, ManyLabels)
        resized = (*transform.via, preprocess.size) != (side,)
        self.rows: torch.Tensor | None
        self.register_buffer("rows", transform.resize_matrix(side) if resized else None)
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1))
        self.std: torch.Tensor
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = pixels.permute(0, 3, 1, 2).float() / 255
        if self.rows is not None:
            x = (self.rows @ (x @ self.rows.T)).clamp(0, 1)
        features = self.backbone((x - self.mean) / self.std)
        logits = self.head(features)
        tempered = logits / self.temperature
        probabilities = tempered.sigmoid() if self.many else tempered.softmax(dim=1)
        return logits, probabilities, features.flatten(1)


def to_onnx(deployed: Deployed, side: int) -> bytes:
    """The model as an ONNX file, for any number of images at a time.

    Raises BundleError for a network that torch cannot export, or that needs what no bundle holds.
    """
    name = type(deployed.backbone.model).__name__
    try:
        content = _exported(deployed, side)
        check_model(content)
    except ModelError as error:
        raise BundleError(f"{name} cannot be exported: {error}") from error
    except (MemoryError, OSError):
        raise
    except Exception as error:  # torch has several kinds for a network that it cannot export
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BundleError(f"{name} cannot be exported to ONNX: {reason}") from error
    return content


def _exported(deployed: Deployed, side: int) -> bytes:
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    with quiet_export(), _not_in_place(deployed), torch.no_grad():
        program = torch.onnx.export(
            deployed.eval(),
            (pixels,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: {0: torch.export.Dim("images")}},
        )
    assert program is not None
    content = io.BytesIO()
    model = program.model_proto
    for node in model.graph.node:  # names of modules and lines of source, twice the graph's size
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    content.write(model.SerializeToString())
    return content.getvalue()


@contextmanager
def _not_in_place(model: nn.Module) -> Iterator[None]:
    """Within the block, activations leave their input as it is, which gives the same graph.

    torch decomposes ReLU6 in place into a dozen symbolic operations, and drops them in the end:
    EfficientNet-Lite0 was exported in 7.5 s in place, and in 4.2 s so (a core of an AMD EPYC).
    """
    changed = [module for module in model.modules() if getattr(module, "inplace", None) is True]
    for module in changed:
        module.inplace = False  # type: ignore[assignment]  # torch: any attribute may be a tensor
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]


@contextmanager
def quiet_export() -> Iterator[None]:
    """Within the block torch's exporter does not talk about its own steps."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
