"""The studies that `fit` writes for a folder of photos: probes of the shortlist, then fine-tuning.

They are ordinary studies: saved as TOML, they run again with `headstart compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomli_w

from headstart.evaluation.classes import unequal
from headstart.recipe import Study

# Fine-tuning: the last stage at a rate that keeps what the weights know, on views that a photo
# survives. Tuned on validation of flowers12, tiles6, characters136 and cifar10-mini (docs/log.md).
AUGMENT = {"flip": True, "shift": 0.1, "zoom": 0.15}
BATCH, VIEWS = 32, 4
FEWEST_EPOCHS, MOST_EPOCHS = 2, 10
# An epoch of the last stage, forward and backward, in frozen passes through everything; and the
# seconds of a run besides passes and epochs.
EPOCH_PASSES, FIXED_S = 1.5, 15.0
# With fewer test images than this, all labelled images are predicted by folds, too: the interval of
# 200 images at 90 % is still 8 points wide.
FEW_TESTED, FOLDS = 200, 5
PRESETS = ("auto", "quick", "best")


@dataclass(frozen=True)
class Photos:
    """What the drafts depend on. data: the recipes' [data] table. counts: training images of each
    class. tested: test images."""

    data: Mapping[str, Any]
    counts: tuple[int, ...]
    tested: int

    @property
    def select_by(self) -> str:
        """The metric that is shown first, and chooses."""
        if self.many:
            return "mean_ap"
        return "macro_f1" if unequal(self.counts) else "accuracy"

    @property
    def many(self) -> bool:
        """Whether a photo may have several labels."""
        return self.data.get("labels") == "many"


def draft_probes(name: str, photos: Photos, backbones: Sequence[str]) -> Study:
    """A solved linear head on each backbone; with weighted classes, too, where they are unequal."""
    variants = []
    for backbone in backbones:
        variants.append({"name": f"{backbone}-probe", "backbone.name": backbone})
        if unequal(photos.counts) and not photos.many:
            weighted = {"name": f"{backbone}-probe-weighted", "balance": "auto"}
            variants.append({**variants[-1], **weighted})
    return _study(name, photos, backbones[0], variants)


def draft_tuned(probes: Study, epochs: Mapping[str, int]) -> Study:
    """The probes, and backbones fine-tuned, each for its epochs."""
    variants = [dict(variant) for variant in probes.variants]
    for backbone, count in epochs.items():
        # With the epochs: another time gives others, and so another run beside the first.
        name = f"{backbone}-tuned-{count}-epochs"
        tuned = {"name": name, "backbone.name": backbone, **_tuned(count)}
        variants.append(tuned)
    return probes.model_copy(update={"variants": tuple(variants)})


def epochs_that_fit(seconds: float, pass_s: float) -> int:
    """Epochs of fine-tuning in so many seconds; 0 where it would be fewer than FEWEST_EPOCHS.

    pass_s: seconds of one frozen pass over all images.
    """
    epochs = int((seconds - FIXED_S - VIEWS * pass_s) / max(EPOCH_PASSES * pass_s, 0.1))
    return min(epochs, MOST_EPOCHS) if epochs >= FEWEST_EPOCHS else 0


def _tuned(epochs: int) -> dict[str, Any]:
    return {
        "batch_size": BATCH,
        "data.augment": AUGMENT,
        "phases": [
            {"train": "head", "views": 1},
            {"train": "last_stage", "epochs": epochs, "lr": 1e-4, "views": VIEWS},
        ],
    }


def _study(name: str, photos: Photos, backbone: str, variants: list[dict[str, Any]]) -> Study:
    recipe: dict[str, Any] = {
        "name": name,
        "select_by": photos.select_by,
        "data": dict(photos.data),
        "backbone": {"name": backbone},
        "phases": [{"train": "head"}],
    }
    if photos.tested < FEW_TESTED and not photos.many:
        recipe["evaluation"] = {"folds": FOLDS}
    return Study(name=name, recipe=recipe, variants=tuple(variants))


def to_toml(study: Study) -> str:
    """The study as a file that `headstart compare` takes."""
    return tomli_w.dumps({**study.recipe, "variants": list(study.variants)})
