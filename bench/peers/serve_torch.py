"""A service as people write it: FastAPI, and torch.

    python serve_torch.py BUNDLE PORT THREADS

The bundle has model.pt2, the same network as torch.export wrote it.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

bundle, port = Path(sys.argv[1]), int(sys.argv[2])
record = json.loads((bundle / "bundle.json").read_text())
torch.set_num_threads(int(sys.argv[3]))
model = torch.export.load(bundle / "model.pt2").module()
app = FastAPI()


def pixels_of(content: bytes, side: int) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = image.convert("RGB").crop((left, top, left + short, top + short))
        return np.array(square.resize((side, side), Image.Resampling.BICUBIC))


@app.post("/predict")
def predict(image: UploadFile) -> dict[str, object]:
    pixels = torch.from_numpy(pixels_of(image.file.read(), record["side"])[None])
    with torch.inference_mode():
        answer = model(pixels)
    logits = answer[0] if isinstance(answer, tuple | list) else answer
    found = torch.softmax(logits[0] / record["temperature"], 0)
    best = int(found.argmax())
    return {"label": record["class_names"][best], "probability": float(found[best])}


uvicorn.run(app, port=port, log_level="error", access_log=False)
