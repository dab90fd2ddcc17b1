"""A service as people write it: FastAPI, and ONNX Runtime on the bundle's model.

    python serve_fastapi.py BUNDLE PORT [--threads N]

Pillow opens, converts and resizes in FastAPI's own threads; every core computes an image, or each
thread one of its own with --threads 1.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

bundle, port = Path(sys.argv[1]), int(sys.argv[2])
record = json.loads((bundle / "bundle.json").read_text())
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
session = onnxruntime.InferenceSession(
    str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
)
app = FastAPI()


def pixels_of(content: bytes, side: int) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = image.convert("RGB").crop((left, top, left + short, top + short))
        return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


@app.post("/predict")
def predict(image: UploadFile) -> dict[str, object]:
    pixels = pixels_of(image.file.read(), record["side"])[None]
    [found] = session.run(["probabilities"], {"pixels": pixels})[0]
    best = int(found.argmax())
    return {"label": record["class_names"][best], "probability": float(found[best])}


uvicorn.run(app, port=port, log_level="error", access_log=False)
