"""LitServe with ONNX Runtime on the bundle's model.

python serve_litserve.py BUNDLE PORT THREADS WORKERS BATCH
"""

import io
import json
import sys
from pathlib import Path

import litserve
import numpy as np
import onnxruntime
from fastapi import UploadFile
from PIL import Image

bundle, port, threads, workers, batch = Path(sys.argv[1]), *map(int, sys.argv[2:6])
record = json.loads((bundle / "bundle.json").read_text())


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def decode_request(self, request: UploadFile) -> np.ndarray:
        side = record["side"]
        with Image.open(io.BytesIO(request.file.read())) as image:
            short = min(image.size)
            left, top = (image.width - short) // 2, (image.height - short) // 2
            square = image.convert("RGB").crop((left, top, left + short, top + short))
            return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        several = pixels if pixels.ndim == 4 else pixels[None]
        found = self.session.run(["probabilities"], {"pixels": several})[0]
        return found if pixels.ndim == 4 else found[0]

    def encode_response(self, found: np.ndarray) -> dict[str, object]:
        best = int(found.argmax())
        return {"label": record["class_names"][best], "probability": float(found[best])}


if __name__ == "__main__":
    api = Classifier(max_batch_size=batch, batch_timeout=0.002 if batch > 1 else 0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers)
    server.run(port=port, generate_client_file=False, log_level="error")
