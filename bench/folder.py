"""`headstart fit` on a folder of photos beside fastai, timm and AutoGluon: accuracy and time.

    python bench/folder.py PHOTOS [--minutes 6] [--peers fastai timm autogluon]

PHOTOS holds train/ and test/, with a folder for each class. Each gets the same photos and minutes,
and the peers the weights of the backbone that `fit` chose, which `fit` had to find: fastai's
`fine_tune`, a fine-tuning as in timm's own script (AdamW, a cosine, random crops), and AutoGluon's
image predictor. fastai and timm train as many epochs as fit, by a look at one. The test photos are
answered once, at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from harness import machine_line, run_peer

import headstart
from headstart.evaluation.statistics import wilson_interval
from headstart.models.backbones import create_backbone

ENVIRONMENTS = {"fastai": "torch", "timm": "torch", "autogluon": "autogluon"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--peers", nargs="*", default=list(ENVIRONMENTS))
    asked = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    print(machine_line(1))
    print("| tool | backbone | test accuracy | 95 % interval | seconds | epochs |")
    print("| --- | --- | ---: | --- | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        job = fit(asked.photos, asked.minutes, Path(scratch))
        for peer in asked.peers:
            began = time.perf_counter()
            answer = run_peer(ENVIRONMENTS[peer], f"{peer}_folder.py", job)
            seconds = time.perf_counter() - began
            right, n = answer["right"], answer["n"]
            name = json.loads((job / "job.json").read_text())["backbone"]
            show(answer["peer"], name, right, n, seconds, str(answer["epochs"]))


def fit(photos: Path, minutes: float, scratch: Path) -> Path:
    """Print our row, and write the job of the peers: a folder with job.json and weights.pt."""
    began = time.perf_counter()
    fitted = headstart.fit(photos, minutes=minutes, out=scratch / "fitted", device="cpu")
    seconds = time.perf_counter() - began
    predictions = fitted.run.predictions("test")
    recipe = fitted.run.recipe
    right, n = int(predictions.correct.sum()), len(predictions)
    show("headstart fit", f"{recipe.backbone.name}, chosen", right, n, seconds, "")
    job = scratch / "job"
    job.mkdir()
    preprocess = fitted.run.provenance.preprocess
    backbone = create_backbone(recipe.backbone)
    torch.save(backbone.model.state_dict(), job / "weights.pt")
    settings = {
        "photos": str(photos.absolute()),
        "seconds": 60 * minutes,
        "backbone": recipe.backbone.name,
        "side": preprocess.size,
        "mean": preprocess.mean,
        "std": preprocess.std,
        "seed": 0,
    }
    (job / "job.json").write_text(json.dumps(settings))
    return job


def show(tool: str, backbone: str, right: int, n: int, seconds: float, epochs: str) -> None:
    low, high = wilson_interval(right, n)
    interval = f"[{low:.1%}, {high:.1%}]"
    print(f"| {tool} | {backbone} | {right / n:.1%} | {interval} | {seconds:.0f} | {epochs} |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
