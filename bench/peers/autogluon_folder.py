"""AutoGluon's image predictor on a folder of photos, with given weights and a time limit.

Reads the job folder it is given, prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import autogluon.multimodal
import pandas as pd
import timm
import torch
from autogluon.multimodal import MultiModalPredictor


def table(folder: Path) -> pd.DataFrame:
    rows = [(str(path), path.parent.name) for path in sorted(folder.glob("*/*"))]
    return pd.DataFrame(rows, columns=["image", "label"])


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    photos = Path(job["photos"])
    # What AutoGluon takes for a timm model in a folder: its weights and its settings.
    local = folder / "local"
    local.mkdir(exist_ok=True)
    model = timm.create_model(job["backbone"], num_classes=0)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    torch.save(model.state_dict(), local / "pytorch_model.bin")
    settings = {
        "architecture": job["backbone"],
        "num_classes": 0,
        "num_features": model.num_features,
        "input_size": [3, job["side"], job["side"]],
        "mean": job["mean"],
        "std": job["std"],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
    }
    (local / "config.json").write_text(json.dumps(settings))
    predictor = MultiModalPredictor(label="label", path=str(folder / "autogluon"), verbosity=0)
    predictor.fit(
        table(photos / "train"),
        time_limit=job["seconds"],
        seed=job["seed"],
        hyperparameters={
            "model.names": ["timm_image"],
            "model.timm_image.checkpoint_name": str(local),
            "env.num_gpus": 0,
            "env.num_workers": 2,
        },
    )
    test = table(photos / "test")
    right = int((predictor.predict(test.drop(columns="label")) == test["label"]).sum())
    answer = {"peer": f"AutoGluon {autogluon.multimodal.__version__}", "right": right}
    print(json.dumps({**answer, "n": len(test), "epochs": "its own"}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
