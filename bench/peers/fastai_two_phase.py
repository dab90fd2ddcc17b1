"""The two-phase workflow in fastai: a frozen fit with one-cycle, then one of the upper blocks.

With fastai's own schedule and decay. Images come from memory, resized a batch at a time. Reads the
job folder it is given, prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import fastai
import fastai.callback.progress
import fastai.callback.schedule
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from torch import nn
from torch_two_phase import Prepare, movable, read_job


class FrozenNorms(Callback):
    """Batch norms keep their statistics: `train_bn` holds them only in groups that fastai froze."""

    def before_batch(self) -> None:
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


class EpochClock(Callback):
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.validation: list[float] = []

    def before_train(self) -> None:
        self._started = time.perf_counter()

    def after_train(self) -> None:
        self.seconds.append(time.perf_counter() - self._started)

    def before_validate(self) -> None:
        self._started = time.perf_counter()

    def after_validate(self) -> None:
        self.validation.append(time.perf_counter() - self._started)


def main(folder: Path) -> None:
    job, images, backbone = read_job(folder)
    model = nn.Sequential(backbone, nn.Linear(backbone.num_features, job["classes"]))
    model.to(memory_format=torch.channels_last)
    prepare = Prepare(job)

    def loader(split: str) -> DataLoader:
        x, y, training = images[f"{split}_images"], images[f"{split}_labels"], split == "train"

        def collate(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
            return prepare(x[rows], augment=training), y[rows]

        return DataLoader(
            range(len(x)), bs=job["batch"], shuffle=training, create_batch=collate, num_workers=0
        )

    learner = Learner(
        DataLoaders(loader("train"), loader("val")),
        model,
        loss_func=CrossEntropyLossFlat(),
        metrics=accuracy,
        cbs=[FrozenNorms()],
    )
    answer: dict[str, object] = {
        "peer": f"fastai {fastai.__version__}",
    }
    for phase in ("frozen", "tuned"):
        if not job[f"{phase}_epochs"]:
            continue
        moving = movable(backbone, job["boundary"]) if phase == "tuned" else set()
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad = name in moving
        learner.create_opt()
        clock = EpochClock()
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(job[f"{phase}_epochs"], job[f"{phase}_lr"], cbs=[clock])
            scored = learner.validate(dl=loader("test"))
        answer[phase] = {
            "epoch_s": clock.seconds,
            "validation_s": clock.validation,
            "accuracy": float(scored[1]),
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
