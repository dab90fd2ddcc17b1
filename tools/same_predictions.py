"""Save the predictions of a fixed set of runs, or compare two such sets bit for bit.

    python tools/same_predictions.py save DIR
    python tools/same_predictions.py compare BEFORE AFTER

The runs: the demo's five, and cifar10-two-phase and s2-right on 2,000 images. A change that leaves
the arithmetic alone leaves every logit as it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import headstart

FEW = ["data.train_limit=2000", "data.test_limit=2000"]


def recipes() -> list[headstart.Recipe]:
    few = [headstart.load_recipe(name, FEW) for name in ("cifar10-two-phase", "s2-right")]
    return [*headstart.load_study("demo").recipes(), *few]


def save(folder: Path) -> None:
    for recipe in recipes():
        headstart.run(recipe, out=folder / recipe.name, measure=False)


def compare(before: Path, after: Path) -> bool:
    """Print a line a run; whether all predictions are the same."""
    same = True
    for run in sorted(path.parent for path in before.glob("*/predictions")):
        for split in ("val", "test"):
            one, other = (
                np.load(folder / run.name / "predictions" / f"{split}.npz")
                for folder in (before, after)
            )
            equal = all(np.array_equal(one[name], other[name]) for name in one.files)
            worst = 0.0 if equal else float(np.abs(one["logits"] - other["logits"]).max())
            print(f"{run.name} {split}: {'same' if equal else f'differs by up to {worst:.2e}'}")
            same &= equal
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", choices=["save", "compare"])
    parser.add_argument("folders", nargs="+", type=Path)
    given = parser.parse_args()
    if given.verb == "save":
        save(*given.folders)
    elif not compare(*given.folders):
        sys.exit(1)


if __name__ == "__main__":
    main()
