"""Faults: what may be wrong with the images of a recipe, as warnings of one line each."""

from __future__ import annotations

from headstart.data.check.duplicates import SplitDuplicates, find_split_duplicates, list_source
from headstart.data.sources.download import Progress
from headstart.data.splits import Splits
from headstart.specs import DataSpec


def find_warnings(splits: Splits, spec: DataSpec, progress: Progress | None = None) -> list[str]:
    """One line for each fault. A run prints them, keeps them in its manifest and shows them with
    every result.

    The splits of a folder are searched for duplicates; the result is remembered.
    """
    warnings = [*_left_out(splits), *splits.notes]
    if list_source(splits.source) is None:  # the known data sets need no warning
        warnings += _duplicates(splits, progress)
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
        f"left out {count:,} images that cannot be used, such as {example} "
        "(manifest.json of a run lists them all)"
    ]


def _duplicates(splits: Splits, progress: Progress | None) -> list[str]:
    test, val = (find_split_duplicates(splits, split, progress) for split in ("test", "val"))
    remedy = (
        'remove them, or keep all photos of one thing in one split (data.group = "auto" where the '
        "splits are cut here); `headstart data duplicates "
        f"{splits.source} --out pairs.png` draws them"
    )
    lines = []
    if not test.searched.any():
        lines.append(
            "too many images to search for duplicates between the splits: only byte-identical ones "
            "are found"
        )
    if test.example:
        line = (
            f"{_describe(test, 'test', 'train or validation')}: test scores look better than they "
            "are"
        )
        if test.kept.any() and splits.train.labels.ndim == 1:
            line += ", and test.without_duplicates in metrics.json is without them"
        lines.append(f"{line}; {remedy}")
    if val.example:
        lines.append(
            f"{_describe(val, 'validation', 'train')}: validation then chooses on images that were "
            f"trained on; {remedy}"
        )
    return lines


def _describe(duplicates: SplitDuplicates, split: str, others: str) -> str:
    images = len(duplicates.searched)
    duplicated = int(duplicates.duplicated.sum())
    searched = int(duplicates.searched.sum()) or images
    share = f"{duplicated:,} of {searched:,} {split} images"
    if searched < images:
        share += f" that were compared (of {images:,})"
    exact = f", {duplicates.exact:,} of them the very same picture" if duplicates.exact else ""
    have = "have" if duplicated > 1 else "has"
    first, second = duplicates.example or ("", "")
    return (
        f"{share} ({100 * duplicated / searched:.1f} %) {have} a duplicate in {others}{exact}, "
        f"such as {first} = {second}"
    )
