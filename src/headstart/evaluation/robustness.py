"""Robustness: accuracy on damaged images, beside that on the same images as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.evaluation.metrics import selection_value
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.statistics import wilson_interval


@dataclass(frozen=True)
class Damage:
    """What was done to the images: a corruption, its severity, its constant as text."""

    name: str
    severity: int
    setting: str


def robustness(
    clean: Predictions, damages: Sequence[Damage], logits: np.ndarray, side: int
) -> dict[str, Any]:
    """Accuracies under each damage, plain and balanced, and their means.

    clean: of the same n images undamaged; logits: float32 (damages, n, classes); side: pixels along
    each side of the images that were damaged.
    """
    n, rows = len(clean), []
    for damage, values in zip(damages, logits, strict=True):
        made = Predictions(clean.ids, clean.labels, values)
        hits = int(made.correct.sum())
        scores = {"accuracy": hits / n, "interval": wilson_interval(hits, n)}
        rows.append({**vars(damage), **scores, "balanced_accuracy": _balanced(made)})
    return {
        "n": n,
        "accuracy": float(clean.correct.mean()),
        "side": side,
        "corruptions": rows,
        "mean": float(np.mean([row["accuracy"] for row in rows])),
        "balanced_accuracy": _balanced(clean),
        "balanced_mean": float(np.mean([row["balanced_accuracy"] for row in rows])),
    }


def _balanced(made: Predictions) -> float:
    return selection_value(made, "balanced_accuracy")
