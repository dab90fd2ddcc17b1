"""Whether a run, torch, ONNX Runtime, OpenVINO and the torch-free predictor answer alike.

    python bench/agreement.py [--side 64] [--train 3000] [BACKBONE ...]

Each backbone is fine-tuned on a part of CIFAR-10 (its last stage, two epochs) and tested on all
10,000 test images. Each way then answers the same images; the service gets them as PNG files over
HTTP. The table gives the images with another answer than the run had, and the largest difference of
a probability from the run's.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from harness import leave_serving_unmeasured, machine_line

import headstart
from headstart.data.images import encode_png
from headstart.deployment.export import export
from headstart.evaluation.predictions import Predictions
from headstart_predict import load

BACKBONES = ("tf_efficientnet_lite0", "mobilenetv2_100", "vgg16")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("backbones", nargs="*", default=BACKBONES)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--train", type=int, default=3000)
    asked = parser.parse_args()
    leave_serving_unmeasured()
    print(machine_line(1))
    print(f"{asked.train:,} training images at {asked.side} pixels, all test images")
    print("| backbone | accuracy | way | images | other answers | largest difference |")
    print("| --- | ---: | --- | ---: | ---: | ---: |", flush=True)
    for backbone in asked.backbones:
        with tempfile.TemporaryDirectory() as scratch:
            hold_against_its_run(backbone, asked.side, asked.train, Path(scratch))


def hold_against_its_run(backbone: str, side: int, train: int, scratch: Path) -> None:
    """Print a row for each way of asking the fine-tuned model."""
    changes = [
        *(f"backbone.name={backbone}", 'backbone.weights="registry"', f"data.size={side}"),
        *(f"data.train_limit={train}", "data.augment={}", "batch_size=64", "head.hidden=[]"),
        'phases=[{train="head"}, {train="last_stage", epochs=2, lr=1e-4}]',
    ]
    recipe = headstart.load_recipe("cifar10-two-phase", changes)
    run = headstart.run(recipe, out=scratch / "run", device="cpu")
    bundle = export(run, out=scratch / "bundle").path
    expected = run.predictions("test")
    pixels = headstart.load_data(run.recipe.data).test.read(np.arange(len(expected)))
    torch = headstart.load_predictor(run, device="cpu")
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "torch": torch.logits_of_series,
        "ONNX Runtime": load(bundle, engine="onnxruntime").logits_of_series,
        "OpenVINO": load(bundle, engine="openvino").logits_of_series,
        "the predictor's own choice": load(bundle).logits_of_series,
    }
    before = scaled(expected, torch.temperature)
    for way in (*ways, "the service over HTTP"):
        if way in ways:
            logits = ways[way](pixels)
            found = scaled(Predictions(expected.ids, expected.labels, logits), torch.temperature)
        else:
            found = over_http(bundle, run.class_names, pixels)
        changed = int((found.argmax(1) != before.argmax(1)).sum())
        largest = float(np.abs(found - before).max())
        accuracy = float(expected.correct.mean())
        row = (backbone, f"{accuracy:.2%}", way, f"{len(found):,}", str(changed), f"{largest:.1e}")
        print(f"| {' | '.join(row)} |", flush=True)


def over_http(bundle: Path, names: Sequence[str], pixels: np.ndarray) -> np.ndarray:
    """The probabilities that a service gives for PNG files, float64 (n, classes)."""
    found = []
    with serving(bundle) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for first in range(0, len(pixels), 32):
            coded = [base64.b64encode(encode_png(p)).decode() for p in pixels[first : first + 32]]
            connection.request(
                "POST",
                f"/v1/predict?top={len(names)}",
                json.dumps({"images": coded}),
                {"content-type": "application/json"},
            )
            for answer in json.load(connection.getresponse())["answers"]:
                named = {each["label"]: each["probability"] for each in answer["top"]}
                found.append([named[name] for name in names])
        connection.close()
    return np.array(found)


@contextlib.contextmanager
def serving(bundle: Path) -> Iterator[int]:
    """A service of a bundle, and its port."""
    code = "from headstart_predict.serving.cli import main; main()"
    started = [sys.executable, "-c", code, str(bundle), "--port", "0"]
    with subprocess.Popen(
        started, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().split("http://")[1].split()[0].rpartition(":")[2])
        process.terminate()


def scaled(predictions: Predictions, temperature: float) -> np.ndarray:
    """Calibrated probabilities, float64 (n, classes)."""
    logits = predictions.logits.astype(np.float64) / temperature
    return Predictions(predictions.ids, predictions.labels, logits).probabilities


if __name__ == "__main__":
    main()
