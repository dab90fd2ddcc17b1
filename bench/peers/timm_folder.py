"""Fine-tuning as in timm's own script, on a folder of photos, with given weights.

Random crops, flips and colours, AdamW with weight decay, a cosine over the epochs that fit. Reads
the job folder it is given, prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import timm
import torch
from timm.data import create_transform
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

MOST_EPOCHS = 20  # more change little from weights of ImageNet
RATE, DECAY, SMOOTHING = 3e-4, 0.05, 0.1


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    began = time.perf_counter()
    torch.manual_seed(job["seed"])
    photos, side = Path(job["photos"]), (3, job["side"], job["side"])
    scale = {"mean": job["mean"], "std": job["std"]}
    train = ImageFolder(
        str(photos / "train"), create_transform(side, is_training=True, color_jitter=0.4, **scale)
    )
    test = ImageFolder(
        str(photos / "test"), create_transform(side, is_training=False, crop_pct=0.95, **scale)
    )
    model = timm.create_model(job["backbone"], num_classes=len(train.classes))
    state = torch.load(folder / "weights.pt", weights_only=True)
    head = {f"{model.default_cfg['classifier']}.{name}" for name in ("weight", "bias")}
    assert set(model.load_state_dict(state, strict=False).missing_keys) == head
    model.to(memory_format=torch.channels_last)
    batches = DataLoader(train, 32, shuffle=True, num_workers=2, drop_last=True)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}], RATE, weight_decay=DECAY
    )
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(model(x.contiguous(memory_format=torch.channels_last)), y).backward()
        optimizer.step()

    model.train()
    looked, done = time.perf_counter(), 0
    for x, y in batches:  # these steps count, too
        step(x, y)
        done += 1
        if done == 4:
            break
    epoch = (time.perf_counter() - looked) / done * len(batches)
    left = job["seconds"] - (time.perf_counter() - began)
    epochs = max(1, min(MOST_EPOCHS, int(0.9 * left / epoch)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    for _ in range(epochs):
        for x, y in batches:
            step(x, y)
            schedule.step()
    model.eval()
    right = 0
    with torch.inference_mode():
        for x, y in DataLoader(test, 32, num_workers=2):
            right += int((model(x).argmax(1) == y).sum())
    answer = {"peer": f"timm {timm.__version__}", "right": right, "n": len(test)}
    print(json.dumps({**answer, "epochs": epochs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
