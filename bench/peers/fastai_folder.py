"""fastai's `fine_tune` on a folder of photos, as its documentation has it, with given weights.

Reads the job folder it is given, prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import fastai
import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    get_image_files,
    set_seed,
    vision_learner,
)

MOST_EPOCHS = 20  # more change little from weights of ImageNet


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    began = time.perf_counter()
    photos, side = Path(job["photos"]), job["side"]
    set_seed(job["seed"])
    loaders = ImageDataLoaders.from_folder(
        photos / "train",
        valid_pct=0.2,
        seed=job["seed"],
        bs=32,
        num_workers=2,
        item_tfms=Resize(round(side * 1.15)),
        batch_tfms=[
            *aug_transforms(size=side),
            Normalize.from_stats(job["mean"], job["std"], cuda=False),
        ],
    )
    learner = vision_learner(
        loaders, job["backbone"], pretrained=False, normalize=False, metrics=accuracy
    )
    state = torch.load(folder / "weights.pt", weights_only=True)
    learner.model[0].model.load_state_dict(state, strict=True)
    with learner.no_bar(), learner.no_logging():
        looked = time.perf_counter()
        with torch.no_grad():
            for number, (x, _) in enumerate(loaders.train):
                learner.model(x)
                if number == 3:
                    break
        batches = len(loaders.train) + len(loaders.valid)
        # A step takes about three times a forward pass.
        epoch = 3 * (time.perf_counter() - looked) / 4 * batches
        left = job["seconds"] - (time.perf_counter() - began)
        epochs = max(1, min(MOST_EPOCHS, int(left / epoch) - 1))
        learner.fine_tune(epochs)
        test = loaders.test_dl(get_image_files(photos / "test"), with_labels=True)
        probabilities, labels = learner.get_preds(dl=test)
    right = int((probabilities.argmax(1) == labels).sum())
    answer = {"peer": f"fastai {fastai.__version__}", "right": right, "n": len(labels)}
    print(json.dumps({**answer, "epochs": f"1 + {epochs}"}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
