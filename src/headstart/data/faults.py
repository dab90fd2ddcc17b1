"""Faults: what may be wrong with the images of a recipe, as the lines that a run warns with."""

from __future__ import annotations

from headstart.data.splits import Splits
from headstart.specs import DataSpec


def find_warnings(splits: Splits, spec: DataSpec) -> list[str]:
    """One line for each fault. A run says them, keeps them in its manifest and shows them with
    every result."""
    warnings = _left_out(splits) + list(splits.notes)
    if spec.normalize == "unit":
        warnings.append(
            'normalize = "unit" feeds pixels scaled in another way than the weights were trained '
            "with"
        )
    return warnings


def _left_out(splits: Splits) -> list[str]:
    if not splits.quarantined:
        return []
    first, count = splits.quarantined[0], len(splits.quarantined)
    example = f"{first.path}: {first.reason}"
    if count == 1:
        return [f"left out {example}"]
    return [
        f"left out {count:,} images that cannot be read, such as {example} "
        "(the manifest lists them all)"
    ]
