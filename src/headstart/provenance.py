"""What a run is made of: versions, machine, data, weights and preprocessing, for its manifest."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from headstart.data import Splits
from headstart.data.transforms import Transform
from headstart.models.identity import Weights
from headstart.recipe import Recipe
from headstart.runtime import Runtime, machine, source_commit, versions


def provenance(
    recipe: Recipe, weights: Weights, transform: Transform, splits: Splits, runtime: Runtime
) -> dict[str, Any]:
    """The manifest's account of what the run is made of."""
    return {
        "versions": versions(),
        "commit": source_commit(),
        "machine": {"device": runtime.device.type, "precision": runtime.precision, **machine()},
        "data": {
            "source": splits.source,
            "fingerprint": splits.fingerprint,
            "test_fingerprint": splits.test.fingerprint,
            "class_names": list(splits.class_names),
            "counts": {s: len(getattr(splits, s)) for s in ("train", "val", "test")},
            "quarantined": [asdict(bad) for bad in splits.quarantined],
        },
        "weights": asdict(weights.identity),
        "preprocess": {**asdict(transform.preprocess), "side": splits.train.side},
        "expects": asdict(weights.preprocess),  # what the weights were trained with
        "marks": _marks(recipe),
    }


def _marks(recipe: Recipe) -> list[str]:
    """What a table says beside a run whose scores are not of what its weights expect, or of what
    it hands over."""
    marks = ["unit scaling"] if recipe.data.normalize == "unit" else []
    if recipe.precision == "int8":
        marks.append("scored in int8")
    if recipe.data.resize_via:
        marks.append("resized via " + ", ".join(map(str, recipe.data.resize_via)))
    return marks
