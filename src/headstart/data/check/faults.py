"""Faults: what may be wrong with the images of a recipe, as the lines that a run warns with."""

from __future__ import annotations

from headstart.data.check.duplicates import Overlap, find_overlap, list_source
from headstart.data.sources.download import Progress
from headstart.data.splits import Splits
from headstart.specs import DataSpec


def find_warnings(splits: Splits, spec: DataSpec, progress: Progress | None = None) -> list[str]:
    """One line for each fault. A run says them, keeps them in its manifest and shows them with
    every result.

    A folder's splits are searched for duplicates of each other, which is remembered.
    """
    warnings = [*_left_out(splits), *splits.notes]
    if list_source(splits.source) is None:  # the known sets are what they are
        warnings += _overlaps(splits, progress)
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


def _overlaps(splits: Splits, progress: Progress | None) -> list[str]:
    test, val = (find_overlap(splits, split, progress) for split in ("test", "val"))
    remedy = (
        "remove them, or keep all photos of one thing in one split; `headstart data duplicates "
        f"{splits.source} --out pairs.png` draws them"
    )
    lines = []
    if not test.searched.any():
        lines.append(
            "so many images are not searched for duplicates between the splits: only "
            "byte-identical ones are found"
        )
    if test.example:
        told = (
            f"{_told(test, 'test', 'train or validation')}: test scores look better than they are"
        )
        if test.kept.any():
            told += ", and test.without_duplicates in metrics.json is without them"
        lines.append(f"{told}; {remedy}")
    if val.example:
        lines.append(
            f"{_told(val, 'validation', 'train')}: what validation chooses is chosen on images "
            f"that were learnt; {remedy}"
        )
    return lines


def _told(overlap: Overlap, split: str, others: str) -> str:
    count = len(overlap.searched)
    found, searched = int(overlap.leaking.sum()), int(overlap.searched.sum()) or count
    of = f"{found:,} of {searched:,} {split} images"
    if searched < count:
        of += f" that were compared (of {count:,})"
    exact = f", {overlap.exact:,} of them the very same picture" if overlap.exact else ""
    have = "have" if found > 1 else "has"
    first, second = overlap.example or ("", "")
    return (
        f"{of} ({100 * found / searched:.1f} %) {have} a duplicate in {others}{exact}, "
        f"such as {first} = {second}"
    )
