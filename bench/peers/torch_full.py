"""Every layer of a timm network trained in plain PyTorch, written by an expert for the device.

All images are on the device, where each batch is gathered, augmented and resized; channels-last,
bfloat16 autocast, fused AdamW, and no value is read back within an epoch. Compiled if the job says
so. Reads its job folder, prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch_two_phase import read_job


class Prepare:
    """uint8 (n, 32, 32, 3) on the device to what the network wants; a batch shares its shift."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.size = job["size"]
        self.mean = torch.tensor(job["mean"], device=job["device"]).view(1, 3, 1, 1)
        self.std = torch.tensor(job["std"], device=job["device"]).view(1, 3, 1, 1)

    def __call__(self, x: torch.Tensor, *, augment: bool) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2).float() / 255
        if augment:
            flipped = torch.rand(len(x), device=x.device) < 0.5
            x = torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x)
            dx, dy = torch.randint(-3, 4, (2,)).tolist()
            x = F.pad(x, (3, 3, 3, 3), mode="reflect")[:, :, 3 + dy : 35 + dy, 3 + dx : 35 + dx]
        x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=False)
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def autocast(job: dict[str, Any]) -> torch.autocast:
    return torch.autocast(job["device"], torch.bfloat16, enabled=job["device"] == "cuda")


def main(folder: Path) -> None:
    job, images, backbone = read_job(folder)
    device = job["device"]
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    model = nn.Sequential(backbone, nn.Linear(backbone.num_features, job["classes"]))
    model.to(device, memory_format=torch.channels_last).train()
    run = torch.compile(model, dynamic=False) if job["compile"] else model
    prepare = Prepare(job)
    rate, decay = job["lr"], job["weight_decay"]
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=decay, fused=True)
    x_all, y_all = (images[f"train_{part}"].to(device) for part in ("images", "labels"))
    seconds = []
    for _ in range(job["epochs"]):
        started = time.perf_counter()
        for rows in torch.randperm(len(x_all), device=device).split(job["batch"]):
            x = prepare(x_all[rows], augment=True)
            with autocast(job):
                loss = F.cross_entropy(run(x), y_all[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    answer = {
        "peer": f"PyTorch {torch.__version__}, timm {timm.__version__}",
        "epoch_s": seconds,
        "images": len(x_all),
        "accuracy": score(model.eval(), job, images, prepare),
    }
    print(json.dumps(answer))


@torch.inference_mode()
def score(
    model: nn.Module, job: dict[str, Any], images: dict[str, torch.Tensor], prepare: Prepare
) -> float:
    hits = 0
    x_all, y_all = (images[f"test_{part}"].to(job["device"]) for part in ("images", "labels"))
    for x, y in zip(x_all.split(256), y_all.split(256), strict=True):
        with autocast(job):
            hits += int((model(prepare(x, augment=False)).argmax(dim=1) == y).sum())
    return hits / len(y_all)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
