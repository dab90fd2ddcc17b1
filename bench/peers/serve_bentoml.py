"""BentoML with ONNX Runtime on the bundle's model: the environment says which, and how.

BUNDLE=... THREADS=1 WORKERS=2 BATCH=1 bentoml serve serve_bentoml:Classifier --port PORT
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime
from PIL.Image import Image, Resampling

BUNDLE, BATCH = Path(os.environ["BUNDLE"]), int(os.environ["BATCH"])
RECORD = json.loads((BUNDLE / "bundle.json").read_text())


@bentoml.service(workers=int(os.environ["WORKERS"]), traffic={"timeout": 60})
class Classifier:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        self.session = onnxruntime.InferenceSession(
            str(BUNDLE / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    @bentoml.api
    def predict(self, image: Image) -> dict:
        side, short = RECORD["side"], min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = image.convert("RGB").crop((left, top, left + short, top + short))
        pixels = np.asarray(square.resize((side, side), Resampling.BICUBIC))[None]
        [found] = self.session.run(["probabilities"], {"pixels": pixels})[0]
        best = int(found.argmax())
        return {"label": RECORD["class_names"][best], "probability": float(found[best])}
