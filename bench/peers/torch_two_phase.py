"""The two-phase workflow in plain PyTorch and timm: the frozen backbone in the loop.

Like most scripts, with all common optimisations: images in memory, resized a batch at a time,
channels-last, no gradients below the boundary, fused Adam. Reads its job folder, prints one line of
JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn


def movable(backbone: nn.Module, boundary: str) -> set[str]:
    """Parameters from the boundary on, batch norms' left out, as in every tool of this row."""
    norms = {
        f"{name}.{own}"
        for name, module in backbone.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for own, _ in module.named_parameters()
    }
    names = [name for name, _ in backbone.named_parameters()]
    first = next(i for i, name in enumerate(names) if name.startswith(boundary))
    return set(names[first:]) - norms


class Prepare:
    """uint8 (n, 32, 32, 3) to what the network wants: resized, normalised, augmented if asked.

    A batch shares its shift, which is cheaper than one an image.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.size = job["size"]
        self.mean = torch.tensor(job["mean"]).view(1, 3, 1, 1)
        self.std = torch.tensor(job["std"]).view(1, 3, 1, 1)

    def __call__(self, x: torch.Tensor, *, augment: bool) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2).float() / 255
        if augment:
            flipped = torch.rand(len(x)) < 0.5
            x = torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x)
            dx, dy = torch.randint(-3, 4, (2,)).tolist()
            x = F.pad(x, (3, 3, 3, 3), mode="reflect")[:, :, 3 + dy : 35 + dy, 3 + dx : 35 + dx]
        x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=False)
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def read_job(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], Any]:
    """The settings, the images and labels by name, and the backbone with its weights."""
    job = json.loads((folder / "job.json").read_text())
    with np.load(folder / "data.npz") as data:
        images = {name: torch.from_numpy(data[name]) for name in data.files}
    with np.load(folder / "weights.npz") as weights:
        state = {name: torch.from_numpy(weights[name]) for name in weights.files}
    torch.manual_seed(job["seed"])
    backbone = timm.create_model(job["backbone"], num_classes=0)
    backbone.load_state_dict(state)
    return job, images, backbone


def main(folder: Path) -> None:
    job, images, backbone = read_job(folder)
    model = nn.Sequential(backbone, nn.Linear(backbone.num_features, job["classes"]))
    model.to(memory_format=torch.channels_last)
    prepare = Prepare(job)
    half = job["precision"] == "bfloat16"
    answer: dict[str, object] = {
        "peer": f"PyTorch {torch.__version__}, timm {timm.__version__}",
    }
    for phase in ("frozen", "tuned"):
        moving = movable(backbone, job["boundary"]) if phase == "tuned" else set()
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad = name in moving
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, job[f"{phase}_lr"], fused=True)
        model.eval()  # the batch norms keep their statistics; there is no dropout
        x_all, y_all = images["train_images"], images["train_labels"]
        seconds, validation = [], []
        for _ in range(job[f"{phase}_epochs"]):
            started = time.perf_counter()
            for rows in torch.randperm(len(x_all)).split(job["batch"]):
                x = prepare(x_all[rows], augment=True)
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    logits = model(x)
                loss = F.cross_entropy(logits.float(), y_all[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            trained = time.perf_counter()
            score(model, images, prepare, "val", half=half)
            seconds.append(trained - started)
            validation.append(time.perf_counter() - trained)
        if seconds:
            answer[phase] = {
                "epoch_s": seconds,
                "validation_s": validation,
                "accuracy": score(model, images, prepare, "test"),
            }
    print(json.dumps(answer))


@torch.inference_mode()
def score(
    model: nn.Module,
    images: dict[str, torch.Tensor],
    prepare: Prepare,
    split: str,
    *,
    batch: int = 64,  # on two cores faster than 256
    half: bool = False,
) -> float:
    all_x, all_y = images[f"{split}_images"], images[f"{split}_labels"]
    hits = 0
    for x, y in zip(all_x.split(batch), all_y.split(batch), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(prepare(x, augment=False))
        hits += int((logits.argmax(dim=1) == y).sum())
    return hits / len(all_y)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
