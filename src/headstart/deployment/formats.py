"""Further forms of an exported model: OpenVINO's files, and a program of torch.export.

Each is made beside the bundle's own model.onnx, and answers the golden images as the run does, or
is refused. None of them needs headstart to be used.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from headstart.deployment.onnx_export import INPUT, Deployed, quiet_export
from headstart_predict.engines import LOGITS, import_openvino

OPENVINO, TORCH = "model.xml", "model.pt2"
Files = dict[str, bytes]
Answers = Callable[[np.ndarray], np.ndarray]


def as_openvino(model: bytes) -> tuple[Files, Answers]:
    """model.xml and model.bin in float32, and what answers with them."""
    openvino = import_openvino()
    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / OPENVINO
        openvino.save_model(core.read_model(model), path, compress_to_fp16=False)
        files = {made.name: made.read_bytes() for made in sorted(Path(folder).iterdir())}
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(path), "CPU", settings)

    def answers(pixels: np.ndarray) -> np.ndarray:
        return np.array(compiled({INPUT: pixels})[LOGITS])

    return files, answers


def as_torch(deployed: Deployed, side: int) -> tuple[Files, Answers]:
    """model.pt2, for torch.export.load, and what answers with it."""
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    content = io.BytesIO()
    with quiet_export(), torch.no_grad():
        shapes = {INPUT: {0: torch.export.Dim("images")}}
        program = torch.export.export(deployed.eval(), (pixels,), dynamic_shapes=shapes)
        torch.export.save(program, content)
    loaded = torch.export.load(io.BytesIO(content.getvalue())).module()

    def answers(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(loaded(torch.from_numpy(pixels))[0].numpy())

    return {TORCH: content.getvalue()}, answers
