"""Every layer of a timm network trained with Hugging Face's Trainer.

Pinned workers gather the stored pixels a batch at a time; augmenting and resizing happen on the
device, within the model, so that the loader is not what is measured. bfloat16, fused AdamW, no
clipping, no check of each step's loss, no logging. Reads the job folder that it is given, prints
one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.utils.data import Dataset
from torch_full import Prepare
from torch_two_phase import read_job
from trainer_two_phase import EpochClock
from transformers import Trainer, TrainingArguments


class Classifier(nn.Module):
    """Pixels to logits with the interface that Trainer wants."""

    def __init__(self, backbone: nn.Module, job: dict[str, Any]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features, job["classes"])  # type: ignore[arg-type]  # an int
        self.prepare = Prepare(job)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            x = self.prepare(pixels, augment=self.training)
        logits = self.head(self.backbone(x))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class DeviceClock(EpochClock):
    """Counts an epoch until the device has done what it was asked."""

    def on_epoch_end(self, *arguments: object, **named: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        super().on_epoch_end(*arguments, **named)


class Images(Dataset):
    """A batch at a time: stacking single images would be what the workers do."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        at = torch.tensor(rows)
        return {"pixels": self.pixels[at], "labels": self.labels[at]}


def main(folder: Path) -> None:
    job, images, backbone = read_job(folder)
    cuda = job["device"] == "cuda"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    model = Classifier(backbone, job).to(job["device"], memory_format=torch.channels_last)
    clock = DeviceClock()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=job["epochs"],
            per_device_train_batch_size=job["batch"],
            per_device_eval_batch_size=256,
            learning_rate=job["lr"],
            weight_decay=job["weight_decay"],
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            max_grad_norm=0.0,
            bf16=cuda,
            use_cpu=not cuda,
            torch_compile=job["compile"],
            dataloader_num_workers=job["workers"],
            dataloader_persistent_workers=job["workers"] > 0,
            dataloader_pin_memory=cuda,
            logging_strategy="no",
            logging_nan_inf_filter=False,
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=job["seed"],
        )
        trainer = Trainer(
            model,
            arguments,
            data_collator=lambda batch: batch,
            train_dataset=Images(images["train_images"], images["train_labels"]),
            callbacks=[clock],
        )
        trainer.train()
        test = Images(images["test_images"], images["test_labels"])
        logits = trainer.predict(test).predictions
    answer = {
        "peer": f"transformers {transformers.__version__} Trainer",
        "epoch_s": clock.seconds,
        "images": len(images["train_labels"]),
        "accuracy": float((logits.argmax(axis=1) == images["test_labels"].numpy()).mean()),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
