"""The two-phase workflow with Hugging Face's Trainer: a frozen timm backbone, then its last blocks.

Images come from memory and are resized and augmented a batch at a time in the collator, so that the
loader is not what is measured. Reads the job folder that it is given, prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.utils.data import TensorDataset
from torch_two_phase import Prepare, movable, read_job
from transformers import Trainer, TrainerCallback, TrainingArguments


class Classifier(nn.Module):
    """Backbone and linear head with the interface that Trainer wants."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features, classes)  # type: ignore[arg-type]  # an int

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.backbone(pixels))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def train(self, mode: bool = True) -> Classifier:
        """Batch norms keep their statistics in both phases; there is no dropout."""
        return super().train(False)


class EpochClock(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.validation: list[float] = []

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        self._trained = time.perf_counter()
        self.seconds.append(self._trained - self._started)

    def on_evaluate(self, *_: object, **__: object) -> None:
        self.validation.append(time.perf_counter() - self._trained)


def main(folder: Path) -> None:
    job, images, backbone = read_job(folder)
    model = Classifier(backbone, job["classes"]).to(memory_format=torch.channels_last)
    prepare = Prepare(job)

    def collate(rows: list[tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
        x, y, augmented = (torch.stack(parts) for parts in zip(*rows, strict=True))
        return {"pixels": prepare(x, augment=bool(augmented[0])), "labels": y}

    def dataset(split: str) -> TensorDataset:
        y = images[f"{split}_labels"]
        return TensorDataset(images[f"{split}_images"], y, torch.full_like(y, split == "train"))

    train, val, test = (dataset(split) for split in ("train", "val", "test"))
    answer: dict[str, object] = {
        "peer": f"transformers {transformers.__version__} Trainer",
    }
    for phase in ("frozen", "tuned"):
        if not job[f"{phase}_epochs"]:
            continue
        moving = movable(backbone, job["boundary"]) if phase == "tuned" else set()
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad = name in moving
        clock = EpochClock()
        with tempfile.TemporaryDirectory() as scratch:
            arguments = TrainingArguments(
                output_dir=scratch,
                num_train_epochs=job[f"{phase}_epochs"],
                per_device_train_batch_size=job["batch"],
                per_device_eval_batch_size=job["batch"],
                learning_rate=job[f"{phase}_lr"],
                lr_scheduler_type="constant",
                remove_unused_columns=False,
                save_strategy="no",
                eval_strategy="epoch",
                report_to=[],
                disable_tqdm=True,
                seed=job["seed"],
            )
            trainer = Trainer(
                model,
                arguments,
                data_collator=collate,
                train_dataset=train,
                eval_dataset=val,
                callbacks=[clock],
            )
            trainer.train()
            logits = trainer.predict(test).predictions
        accuracy = float((logits.argmax(axis=1) == images["test_labels"].numpy()).mean())
        answer[phase] = {
            "epoch_s": clock.seconds,
            "validation_s": clock.validation,
            "accuracy": accuracy,
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
